//! Places at which a test ends the process as a power cut would: without a word, without anything being put in order.
//! Only in builds for tests and development; in a release build it does nothing.

/// Names the place at which the process is to end.
const WHERE: &str = "VEDETTE_FAIL_POINT";

/// Ends the process here if a test has named this place.
pub fn reach(place: &str) {
    if cfg!(debug_assertions) && std::env::var_os(WHERE).is_some_and(|w| w == place) {
        log::error!("fail point {place}: the process ends here");
        std::process::abort();
    }
}
