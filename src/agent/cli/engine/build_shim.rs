//! `vedette engine build-shim`: compiles the shim on the device, with the headers of its own TensorRT.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use clap::Args;

use super::Outcome;
use crate::agent::cli::out::Out;
use crate::agent::infer::tensorrt::ffi::Shim;
use crate::agent::infer::tensorrt::machine::{self, Places};
use crate::base::atomic_file;

/// The shim's sources travel in the program: what is compiled is what this agent was written against.
const SOURCES: [(&str, &str); 9] = [
    ("vedette_trt.h", include_str!("../../infer/tensorrt/shim/vedette_trt.h")),
    ("family.h", include_str!("../../infer/tensorrt/shim/family.h")),
    ("library.h", include_str!("../../infer/tensorrt/shim/library.h")),
    ("words.h", include_str!("../../infer/tensorrt/shim/words.h")),
    ("vedette_trt.cpp", include_str!("../../infer/tensorrt/shim/vedette_trt.cpp")),
    ("build.cpp", include_str!("../../infer/tensorrt/shim/build.cpp")),
    ("run.cpp", include_str!("../../infer/tensorrt/shim/run.cpp")),
    ("words.cpp", include_str!("../../infer/tensorrt/shim/words.cpp")),
    ("exports.map", include_str!("../../infer/tensorrt/shim/exports.map")),
];
/// Where NvInfer.h may be: JetPack, Debian packages, NVIDIA's archive.
const HEADERS: [&str; 6] = [
    "/usr/include/aarch64-linux-gnu",
    "/usr/include/x86_64-linux-gnu",
    "/usr/include",
    "/usr/local/include",
    "/usr/local/tensorrt/include",
    "/opt/tensorrt/include",
];
/// Where cuda_runtime_api.h may be.
const CUDA: [&str; 4] =
    ["/usr/local/cuda/include", "/usr/local/cuda/targets/aarch64-linux/include", "/usr/include", "/usr/include/cuda"];

/// Compile the shim for this machine's TensorRT, with its own headers and compiler
///
/// Needed once, and again after a JetPack upgrade: TensorRT's C++ interface differs from version to version. JetPack brings
/// the headers (packages libnvinfer-headers-dev, or libnvinfer-dev, libnvonnxparsers-dev) and g++. The library goes to
/// /usr/lib/vedette, so it takes sudo.
#[derive(Debug, Args)]
pub struct BuildShimArgs {
    /// The directory with NvInfer.h [default: searched for]
    #[arg(long, value_name = "DIR")]
    headers: Option<PathBuf>,

    /// The directory with cuda_runtime_api.h [default: searched for]
    #[arg(long, value_name = "DIR")]
    cuda: Option<PathBuf>,

    /// The C++ compiler
    #[arg(long, value_name = "PROGRAM", default_value = "g++")]
    compiler: PathBuf,

    /// Where the library goes
    #[arg(long, value_name = "DIR", default_value = "/usr/lib/vedette")]
    out: PathBuf,

    /// Only write the sources there, to be compiled by other means
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    sources: Option<PathBuf>,
}

pub fn run(args: &BuildShimArgs) -> anyhow::Result<Outcome> {
    let mut out = Out::new();
    if let Some(dir) = &args.sources {
        write_sources(dir)?;
        out.line(format!("the shim's sources are in {}", dir.display()))?;
        return Ok(Outcome::Good);
    }
    let headers = directory(
        args.headers.as_deref(),
        ("NvInfer.h", &HEADERS),
        "on a Jetson: sudo apt install libnvinfer-headers-dev libnvonnxparsers-dev (JetPack 5: libnvinfer-dev)",
    )?;
    ensure!(
        headers.join("NvOnnxParser.h").is_file(),
        "{} has NvInfer.h and no NvOnnxParser.h: sudo apt install libnvonnxparsers-dev",
        headers.display()
    );
    let cuda = directory(
        args.cuda.as_deref(),
        ("cuda_runtime_api.h", &CUDA),
        "on a Jetson: sudo apt install cuda-cudart-dev-12-6, with your CUDA's number",
    )?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    // Beside where it goes: taken over by a rename, and by nobody half written.
    let work = args.out.join(format!(".shim-{}", std::process::id()));
    let built = compile(args, &headers, &cuda, &work);
    // What remains of a failed try is of no use to anybody.
    let path = built.and_then(|library| install(&library, &args.out));
    std::fs::remove_dir_all(&work).ok();
    let (path, shim) = path?;
    out.line(format!("{} for {} {}", path.display(), shim.flavour(), shim.headers()))?;
    match machine::library(&Places::default()) {
        Ok((library, version))
            if version.parts().0 == shim.headers().parts().0 && version.parts().1 == shim.headers().parts().1 =>
        {
            out.line(format!(
                "it fits {} ({version}): restart the daemon, or run `vedette engine build`",
                library.display()
            ))?;
            Ok(Outcome::Good)
        }
        Ok((library, version)) => {
            let (library, headers) = (library.display(), shim.headers());
            out.line(format!(
                "BUT {library} is {version}, and the headers are of {headers}: install those of the library"
            ))?;
            Ok(Outcome::SomethingWrong)
        }
        Err(e) => {
            out.line(format!("the TensorRT library was not found where the system looks: {e}"))?;
            Ok(Outcome::Good)
        }
    }
}

fn directory(named: Option<&Path>, (file, known): (&str, &[&str]), remedy: &str) -> anyhow::Result<PathBuf> {
    let candidates: Vec<PathBuf> = match named {
        Some(dir) => vec![dir.to_path_buf()],
        None => known.iter().map(PathBuf::from).collect(),
    };
    candidates.iter().find(|dir| dir.join(file).is_file()).cloned().with_context(|| {
        let looked: Vec<String> = candidates.iter().map(|d| d.display().to_string()).collect();
        format!("{file} was not found in {}; {remedy}", looked.join(", "))
    })
}

fn write_sources(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for (name, text) in SOURCES {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn compile(args: &BuildShimArgs, headers: &Path, cuda: &Path, work: &Path) -> anyhow::Result<PathBuf> {
    write_sources(work)?;
    let library = work.join("libvedette_trt.so");
    let sources = SOURCES.iter().map(|(name, _)| name).filter(|name| name.ends_with(".cpp"));
    let compiled = Command::new(&args.compiler)
        .args([
            "-std=c++14",
            "-O2",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
            "-pthread",
            "-Wl,-z,now",
            "-Wl,-z,nodelete",
            "-isystem",
        ])
        .arg(headers)
        .arg("-isystem")
        .arg(cuda)
        .arg(format!("-Wl,--version-script={}", work.join("exports.map").display()))
        .arg("-o")
        .arg(&library)
        .args(sources.map(|name| work.join(name)))
        .arg("-ldl")
        .output()
        .with_context(|| format!("{} cannot be run: sudo apt install g++", args.compiler.display()))?;
    if !compiled.status.success() {
        let words = String::from_utf8_lossy(&compiled.stderr);
        bail!("the shim does not compile with the headers in {}:\n{}", headers.display(), words.trim_end());
    }
    Ok(library)
}

fn install(library: &Path, out: &Path) -> anyhow::Result<(PathBuf, std::sync::Arc<Shim>)> {
    let shim = Shim::open(library)?;
    let path = out.join(machine::shim_name(shim.headers()));
    atomic_file::publish(library, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((path, shim))
}
