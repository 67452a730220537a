//! What a V4L2 device is to the rest: what it offers, what its controls are, and the trait behind which the kernel stands.
//! Nothing here opens anything (`kernel`) or decides anything (`choose`, `controls`).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::choose::NoMode;
use super::controls::{Control, ControlFault, Refusal, Setting};

/// The V4L2 devices of a machine.
pub trait Devices: Send + Sync {
    /// The nodes that there are, in the order of their numbers, whether they are cameras or not. Opens nothing.
    fn list(&self) -> Vec<Listed>;

    /// What the device at this path, a node or a link to one, is and offers.
    fn probe(&self, path: &Path) -> Result<Abilities, DeviceError>;

    /// Sets controls, in this order, and says which of them the device refused or keeps without effect.
    fn set(&self, path: &Path, settings: &[Setting]) -> Result<Vec<Refusal>, DeviceError>;
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// `/dev/videoN`
    pub node: PathBuf,
    /// A name that outlasts plugging: its link below `/dev/v4l/by-id`, or for one without a serial number of its own below
    /// `/dev/v4l/by-path` (the same as long as it stays at the same connector). None: udev made neither.
    pub link: Option<PathBuf>,
}

/// What a camera is and offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// `/dev/videoN`
    pub node: PathBuf,
    /// What it calls itself.
    pub card: String,
    /// Every combination of format, size and rate.
    pub modes: Vec<Mode>,
    /// What can be set.
    pub controls: Vec<Control>,
    /// Who has it, if somebody has; in words.
    pub in_use: Option<String>,
}

/// A pixel format by V4L2's four characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FourCc(pub [u8; 4]);

impl fmt::Display for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(String::from_utf8_lossy(&self.0).trim_end())
    }
}

/// Pictures in a time: `frames` in `seconds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    /// At least 1.
    pub frames: u32,
    /// At least 1.
    pub seconds: u32,
}

impl Rate {
    /// So many a second.
    pub fn fps(self) -> f64 {
        f64::from(self.frames) / f64::from(self.seconds)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", (self.fps() * 100.0).round() / 100.0)
    }
}

/// One way in which a device can give pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mode {
    /// How they are coded.
    pub format: FourCc,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// None: the device doesn't say.
    pub rate: Option<Rate>,
}

/// Why a local camera can't be had. All of it may change without a restart: a plug, another program, a login.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Nothing there.
    #[error("no camera is plugged in as {}; `vedette cameras` lists those that are{}", path.display(), hint(path))]
    Absent {
        /// As configured.
        path: PathBuf,
    },
    /// Not for this user.
    #[error("{} may not be opened by this user; add the user to the group video and start again", path.display())]
    Permission {
        /// As configured.
        path: PathBuf,
    },
    /// Another program has it.
    #[error("{} is in use by {holder}; end that, or give it another camera", path.display())]
    Busy {
        /// As configured.
        path: PathBuf,
        /// In words.
        holder: String,
    },
    /// A device, but none that gives pictures.
    #[error("{} is not a camera: {found}; `vedette cameras` lists those that are", path.display())]
    NotCamera {
        /// As configured.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// The kernel says something else.
    #[error("opening {}", path.display())]
    System {
        /// As configured.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// It offers nothing that fits.
    #[error("{}", path.display())]
    Mode {
        /// As configured.
        path: PathBuf,
        /// What was wished, and what it offers.
        source: NoMode,
    },
    /// Controls that it hasn't, or values that they can't take.
    #[error("controls of {}: {}", path.display(), listed(faults))]
    Controls {
        /// As configured.
        path: PathBuf,
        /// At least one.
        faults: Vec<ControlFault>,
    },
}

/// A node's number is given out anew at each plugging in.
fn hint(path: &Path) -> &'static str {
    match path.starts_with("/dev/v4l") {
        true => "",
        false => ". Its number changes with the order of plugging in: a name below /dev/v4l/by-id does not",
    }
}

fn listed(faults: &[ControlFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
