//! What there is of TensorRT on this machine: its library, the parser, the shim that fits, the GPU.
//!
//! Looked for in this order:
//!
//! | what | where |
//! |---|---|
//! | libnvinfer | `tensorrt.library` in the config, and then nowhere else; `libnvinfer.so` of the major versions that are known, newest first, wherever the system's linker finds them |
//! | parser | beside a library that was named; else wherever the linker finds it |
//! | shim | `tensorrt.shim` in the config, and then nowhere else; `libvedette_trt-<major>.<minor>.so` beside the executable, in `../lib/vedette` from there, in `/usr/lib/vedette`, and in `.cache/tensorrt` of a checkout |
//!
//! Never below the working directory or the state directory: code that the agent itself could have written does not
//! run in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::device::{Device, DeviceError, Gpu};
use super::ffi::{self, Shim, TensorRt};
use super::types::{Kind, ShimError, Version};

/// Major versions whose library is looked for, newest first.
const MAJORS: [u32; 3] = [11, 10, 8];

/// What the config says of where things are.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// libnvinfer.
    pub library: Option<PathBuf>,
    /// The shim.
    pub shim: Option<PathBuf>,
}

/// A machine with TensorRT.
#[derive(Clone)]
pub struct Machine {
    /// Path or name of libnvinfer.
    pub library: PathBuf,
    /// Path or name of the ONNX parser's library.
    pub parser: PathBuf,
    /// What libnvinfer says it is.
    pub version: Version,
    /// The shim that fits it.
    pub shim: PathBuf,
    /// "TensorRT" or "TensorRT-RTX".
    pub flavour: String,
    /// What it runs on.
    pub gpu: Gpu,
}

/// Why a machine cannot run TensorRT.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// It has none: nothing is wrong.
    #[error("there is no TensorRT on this machine")]
    None,
    /// The library that was named cannot be used.
    #[error("the TensorRT library cannot be used")]
    Library(#[source] ShimError),
    /// No shim for its version.
    #[error(
        "TensorRT {version} is here and no shim for it: run `sudo vedette engine build-shim`, which compiles it with the \
         headers of JetPack; looked for {}",
        looked_for.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoShim {
        /// Of TensorRT.
        version: Version,
        /// Every place, in order.
        looked_for: Vec<PathBuf>,
    },
    /// The shim cannot be used.
    #[error("the TensorRT shim cannot be used")]
    Shim(#[source] ShimError),
    /// No GPU.
    #[error("TensorRT {version} is here, and no GPU that it can use")]
    Gpu {
        /// Of TensorRT.
        version: Version,
        /// Why.
        source: DeviceError,
    },
}

/// Libnvinfer as it is found: its path or name, and what it says it is.
pub fn library(places: &Places) -> Result<(PathBuf, Version), MachineError> {
    if let Some(path) = &places.library {
        return ffi::library_version(path).map(|v| (path.clone(), v)).map_err(MachineError::Library);
    }
    for major in MAJORS {
        let name = PathBuf::from(format!("libnvinfer.so.{major}"));
        match ffi::library_version(&name) {
            Ok(version) => return Ok((name, version)),
            // The loader names what it has not found: this one, or one that this one needs.
            Err(e) if e.kind == Kind::Library && e.message.contains(&format!("{}: cannot open", name.display())) => {}
            Err(e) => return Err(MachineError::Library(e)),
        }
    }
    Err(MachineError::None)
}

/// The parser's library that goes with a libnvinfer.
pub fn parser_of(library: &Path) -> PathBuf {
    let name = library.file_name().unwrap_or_default().to_string_lossy();
    let parser = match name.strip_prefix("libtensorrt_rtx") {
        Some(rest) => format!("libtensorrt_onnxparser_rtx{rest}"),
        None => name.replacen("libnvinfer", "libnvonnxparser", 1),
    };
    library.with_file_name(parser)
}

/// The name of the shim for a version.
pub fn shim_name(version: Version) -> String {
    let (major, minor, _) = version.parts();
    format!("libvedette_trt-{major}.{minor}.so")
}

fn shim(configured: Option<&Path>, exe: Option<&Path>, version: Version) -> Result<PathBuf, MachineError> {
    if let Some(path) = configured {
        return Ok(path.to_path_buf());
    }
    let looked_for = shim_places(exe, version);
    looked_for.iter().find(|p| p.is_file()).cloned().ok_or(MachineError::NoShim { version, looked_for })
}

fn shim_places(exe: Option<&Path>, version: Version) -> Vec<PathBuf> {
    let name = shim_name(version);
    let mut places = Vec::new();
    if let Some(dir) = exe.and_then(Path::parent) {
        places.push(dir.join(&name));
        places.extend(dir.parent().map(|up| up.join("lib/vedette").join(&name)));
    }
    places.push(Path::new("/usr/lib/vedette").join(&name));
    let target = exe.and_then(|e| e.ancestors().find(|a| a.file_name().is_some_and(|n| n == "target")));
    places.extend(target.and_then(Path::parent).map(|checkout| checkout.join(".cache/tensorrt").join(&name)));
    places
}

impl Machine {
    /// Looks for it all.
    pub fn find(places: &Places) -> Result<Machine, MachineError> {
        let (library, version) = library(places)?;
        let exe = std::env::current_exe().ok();
        let path = shim(places.shim.as_deref(), exe.as_deref(), version)?;
        let shim = Shim::open(&path).map_err(MachineError::Shim)?;
        let gpu = Device::open().and_then(|d| d.gpu()).map_err(|source| MachineError::Gpu { version, source })?;
        Ok(Machine { parser: parser_of(&library), library, version, shim: path, flavour: shim.flavour(), gpu })
    }

    /// Opens the library with the shim; `to_build` with the parser, too.
    pub fn open(&self, to_build: bool) -> Result<Arc<TensorRt>, ShimError> {
        let shim = Shim::open(&self.shim)?;
        TensorRt::open(shim, &self.library, to_build.then_some(self.parser.as_path()))
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        let (major, minor) = self.gpu.compute_capability;
        format!(
            "{} {} on {} (compute capability {major}.{minor}, CUDA {}.{})",
            self.flavour,
            self.version,
            self.gpu.name,
            self.gpu.cuda / 1000,
            self.gpu.cuda % 1000 / 10,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_is_beside_its_library() {
        for (library, parser) in [
            ("libnvinfer.so.10", "libnvonnxparser.so.10"),
            ("/opt/trt/lib/libnvinfer.so.8.5.2", "/opt/trt/lib/libnvonnxparser.so.8.5.2"),
            ("/x/libtensorrt_rtx.so.1", "/x/libtensorrt_onnxparser_rtx.so.1"),
        ] {
            assert_eq!(parser_of(Path::new(library)), Path::new(parser));
        }
    }

    #[test]
    fn a_shim_is_looked_for_by_version_and_everywhere_is_said() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let exe = dir.path().join("target/debug/vedette");
        let e = shim(None, Some(&exe), Version(100_300)).expect_err("none is there").to_string();
        for said in ["TensorRT 10.3.0", "build-shim", "/usr/lib/vedette/libvedette_trt-10.3.so", ".cache/tensorrt"] {
            assert!(e.contains(said), "{said} is missing in: {e}");
        }
        let place = dir.path().join(".cache/tensorrt/libvedette_trt-10.3.so");
        std::fs::create_dir_all(place.parent().expect("it has one")).expect("writable");
        std::fs::write(&place, "").expect("writable");
        assert_eq!(shim(None, Some(&exe), Version(100_305)).expect("a patch does not matter"), place);
        assert!(shim(None, Some(&exe), Version(100_500)).is_err(), "another minor does");
    }

    #[test]
    fn a_library_that_was_named_is_the_only_one_looked_for() {
        let places = Places { library: Some("/nowhere/libnvinfer.so.10".into()), shim: None };
        let e = library(&places).expect_err("it is not there");
        assert!(matches!(&e, MachineError::Library(s) if s.message.contains("/nowhere")), "{e:?}");
    }
}
