//! Finding and loading libonnxruntime, once for the process.
//!
//! Looked for in this order; the first that exists is loaded:
//!
//! 1. the path in the config (`model.onnxruntime`), and then nowhere else
//! 2. the path in the environment variable `ORT_DYLIB_PATH`, and then nowhere else
//! 3. beside the executable; in `../lib/vedette` from there; in `/usr/lib/vedette` (packages)
//! 4. `.cache/onnxruntime` beside the `target` directory that the executable was built into (a checkout after
//!    `make setup`)
//!
//! Never below the working directory: a library from wherever one happens to stand must not run in the agent.
//!
//! Lock: the one environment of the process, held while it is being made.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ort::environment::Environment;
use ort::logging::LogLevel;

const FILE: &str = "libonnxruntime.so";
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// Why there is no ONNX Runtime.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// It is nowhere.
    #[error(
        "ONNX Runtime ({FILE}) was not found; looked for {}. Run `make setup` in a checkout, install the vedette \
         package, or name the library in `model.onnxruntime` or {VARIABLE}",
        list(looked_for)
    )]
    Missing {
        /// Every place, in order.
        looked_for: Vec<PathBuf>,
    },
    /// It is there and cannot be used.
    #[error("{} cannot be used as ONNX Runtime: version 1.17 or later for this machine is needed", path.display())]
    Unfit {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The process's ONNX Runtime and the file it came from. Only one can be loaded; whoever asks later gets the same.
pub(super) fn environment(configured: Option<&Path>) -> Result<(Environment, PathBuf), LibraryError> {
    static LOADED: Mutex<Option<(Environment, PathBuf)>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(loaded) = &*loaded {
        return Ok(loaded.clone());
    }
    let variable = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    let path = find(configured, variable.as_deref(), std::env::current_exe().ok().as_deref())?;
    let unfit = |source| LibraryError::Unfit { path: path.clone(), source };
    let environment = ort::init_from(&path)
        .map_err(|e| unfit(Box::new(e)))?
        .with_name("vedette")
        .with_telemetry(false)
        .with_logger(Arc::new(|level, _category: &str, _id: &str, place: &str, message: &str| {
            log::log!(target: "onnxruntime", log_level(level), "{message} ({place})");
        }))
        .build()
        .map_err(|e| unfit(Box::new(e)))?;
    environment.set_log_level(LogLevel::Warning);
    Ok(loaded.insert((environment, path)).clone())
}

fn log_level(level: LogLevel) -> log::Level {
    match level {
        LogLevel::Verbose => log::Level::Trace,
        LogLevel::Info => log::Level::Debug,
        LogLevel::Warning => log::Level::Warn,
        LogLevel::Error | LogLevel::Fatal => log::Level::Error,
    }
}

fn find(configured: Option<&Path>, variable: Option<&Path>, exe: Option<&Path>) -> Result<PathBuf, LibraryError> {
    let looked_for = match configured.or(variable) {
        Some(path) => vec![path.to_path_buf()],
        None => places(exe),
    };
    looked_for.iter().find(|p| p.is_file()).cloned().ok_or(LibraryError::Missing { looked_for })
}

fn places(exe: Option<&Path>) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(dir) = exe.and_then(Path::parent) {
        places.push(dir.join(FILE));
        places.extend(dir.parent().map(|up| up.join("lib/vedette").join(FILE)));
    }
    places.push(Path::new("/usr/lib/vedette").join(FILE));
    let target = exe.and_then(|e| e.ancestors().find(|a| a.file_name().is_some_and(|n| n == "target")));
    places.extend(target.and_then(Path::parent).map(|checkout| checkout.join(".cache/onnxruntime").join(FILE)));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_library_is_the_only_one_looked_for() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let exe = dir.path().join("vedette");
        std::fs::write(dir.path().join(FILE), "").expect("writable");
        assert_eq!(find(None, None, Some(&exe)).expect("it is beside the executable"), dir.path().join(FILE));
        let other = dir.path().join("other.so");
        let error = find(Some(&other), None, Some(&exe)).expect_err("not there").to_string();
        assert!(error.contains("other.so") && error.contains("make setup"), "{error}");
        assert!(!error.contains("/usr/lib/vedette"), "{error}");
    }

    #[test]
    fn looks_beside_the_target_directory_and_says_everywhere_it_looked() {
        let exe = Path::new("/nowhere/checkout/target/debug/deps/vedette-0");
        let error = find(None, None, Some(exe)).expect_err("/nowhere is nowhere").to_string();
        for place in [
            "/nowhere/checkout/target/debug/deps/libonnxruntime.so",
            "/nowhere/checkout/target/debug/lib/vedette/libonnxruntime.so",
            "/usr/lib/vedette/libonnxruntime.so",
            "/nowhere/checkout/.cache/onnxruntime/libonnxruntime.so",
        ] {
            assert!(error.contains(place), "{place} is missing in: {error}");
        }
    }
}
