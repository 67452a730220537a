//! How long it is waited between two sessions with a camera that was lost, and what is said meanwhile.
//!
//! A network camera is tried again after 1 s, then ever later, up to 60 s. A camera that is plugged into this machine is looked
//! for every second, which costs next to nothing, and tried again as soon as it is there; only one that is there and
//! nevertheless fails is tried less often, every 5 s at last. The same reason is said once, not at each attempt.

use std::time::Duration;

use super::error::CaptureError;
use crate::agent::config::Source;
use crate::base::backoff::Backoff;
use crate::base::error::{Chain, Retry};
use crate::base::progress::Beat;
use crate::base::stop::StopToken;

/// First and greatest wait for a camera that can only be tried.
const REMOTE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// First and greatest wait for one that can be looked for.
const LOCAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest wait between two signs of life.
const ROUND: Duration = Duration::from_millis(500);

/// With one camera.
pub struct Patience {
    slowest: Duration,
    backoff: Backoff,
    next: Duration,
    look_every: Duration,
    /// What was said last.
    said: String,
}

impl Patience {
    /// As befits the kind of camera.
    pub fn with(source: &Source) -> Self {
        let local = matches!(source, Source::V4l2 { .. } | Source::Csi { .. });
        let (first, slowest) = if local { LOCAL } else { REMOTE };
        Patience {
            slowest,
            backoff: Backoff::new(first, slowest),
            next: first,
            look_every: LOOK_EVERY,
            said: String::new(),
        }
    }

    /// It worked for a while.
    pub fn reset(&mut self) {
        self.backoff.reset();
        self.said.clear();
    }

    /// The wait until the next attempt.
    pub fn next(&mut self, retry: Retry) -> Duration {
        self.next = match retry {
            Retry::Later => self.backoff.next_delay(),
            Retry::Never => self.slowest,
        };
        self.next
    }

    /// Whether this has to be said.
    pub fn is_news(&mut self, error: &CaptureError) -> bool {
        let reason = Chain(error).to_string();
        let news = self.said != reason;
        self.said = reason;
        news
    }

    /// Waits for the next attempt, and for a local camera beyond that until a look says that it is ready; `say` hears why it
    /// isn't when that changes. True if stopped.
    pub fn wait(
        &mut self,
        look: impl Fn() -> Result<(), CaptureError>,
        say: impl Fn(&CaptureError, Duration),
        stop: &StopToken,
        beat: &Beat,
    ) -> bool {
        let mut time = self.next;
        loop {
            if wait(time, stop, beat) {
                return true;
            }
            let Err(e) = look() else { return false };
            if self.is_news(&e) {
                say(&e, self.look_every);
            }
            time = self.look_every;
        }
    }
}

/// Waits and goes round meanwhile; true if stopped.
fn wait(mut time: Duration, stop: &StopToken, beat: &Beat) -> bool {
    while !time.is_zero() {
        beat.beat();
        let step = time.min(ROUND);
        if stop.wait(step) {
            return true;
        }
        time -= step;
    }
    stop.is_stopped()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::PathBuf;

    use super::*;
    use crate::agent::capture::v4l2::DeviceError;
    use crate::agent::config::{Transport, VideoWish};

    fn absent() -> CaptureError {
        CaptureError::Device(DeviceError::Absent { path: PathBuf::from("/dev/video0") })
    }

    fn busy() -> CaptureError {
        CaptureError::Device(DeviceError::Busy { path: PathBuf::from("/dev/video0"), holder: "cheese".into() })
    }

    fn local() -> Patience {
        let source =
            Source::V4l2 { device: "/dev/video0".into(), wish: VideoWish::default(), controls: Default::default() };
        Patience::with(&source)
    }

    #[test]
    fn a_local_camera_is_looked_for_until_it_is_there_and_each_reason_said_once() {
        let mut patience = local();
        assert!(patience.is_news(&absent()), "the session that failed said it");
        let looks = RefCell::new(vec![Ok(()), Err(busy()), Err(busy()), Err(absent())]);
        let said = RefCell::new(Vec::new());
        let look = || looks.borrow_mut().pop().expect("nobody looks again after it is there");
        let say = |e: &CaptureError, _| said.borrow_mut().push(e.to_string());
        (patience.next, patience.look_every) = (Duration::ZERO, Duration::ZERO);
        assert!(!patience.wait(look, say, &StopToken::new(), &Beat::detached()));
        assert_eq!(said.into_inner(), [busy().to_string()], "absent was said before, busy is said once");
        assert!(!patience.is_news(&busy()));
        patience.reset();
        assert!(patience.is_news(&busy()), "it worked in between");
    }

    #[test]
    fn a_local_camera_is_never_waited_for_long() {
        let mut patience = local();
        let longest = (0..20).map(|_| patience.next(Retry::Later)).max();
        assert!(longest <= Some(LOCAL.1), "{longest:?}");
        assert_eq!(patience.next(Retry::Never), LOCAL.1);
    }

    #[test]
    fn a_network_camera_is_tried_ever_less_often_and_never_after_more_than_a_minute() {
        let transport = Transport::Auto;
        let source = Source::Rtsp { url: "rtsp://a/b".into(), credentials: None, transport, latency: Duration::ZERO };
        let mut patience = Patience::with(&source);
        let waits: Vec<Duration> = (0..20).map(|_| patience.next(Retry::Later)).collect();
        assert!(waits[0] <= REMOTE.0 * 2 && waits.iter().all(|w| *w <= REMOTE.1) && waits[19] > LOCAL.1, "{waits:?}");
        assert_eq!(patience.next(Retry::Never), REMOTE.1);
        assert!(patience.is_news(&absent()) && !patience.is_news(&absent()), "a state that lasts is said once");
    }

    #[test]
    fn a_stop_ends_the_waiting() {
        let stop = StopToken::new();
        stop.stop();
        assert!(local().wait(|| Err(absent()), |_, _| {}, &stop, &Beat::detached()));
    }
}
