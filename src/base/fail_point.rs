//! Places at which a test ends the process as a power cut would: without a word, without anything being put in order; or
//! has it hang.
//! Only in builds for tests and development; in a release build it does nothing.

/// Names the place at which the process is to end.
const WHERE: &str = "VEDETTE_FAIL_POINT";

/// Ends the process here if a test has named this place, or hangs if it has named it with `:hang`.
pub fn reach(place: &str) {
    if cfg!(debug_assertions) && std::env::var_os(WHERE).is_some_and(|w| w == place) {
        log::error!("fail point {place}: the process ends here");
        std::process::abort();
    }
    if cfg!(debug_assertions) && std::env::var_os(WHERE).is_some_and(|w| w == format!("{place}:hang").as_str()) {
        log::error!("fail point {place}: the process hangs here");
        loop {
            std::thread::park();
        }
    }
}
