//! A camera's controls: from what the config says to what is set, held against what the device reports. Pure.

use std::collections::BTreeMap;
use std::fmt;

use crate::agent::config::ControlValue;

/// What a control takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Takes {
    /// `minimum`, each `step` after it, up to `maximum`.
    Number {
        /// Least.
        minimum: i64,
        /// Greatest.
        maximum: i64,
        /// At least 1.
        step: i64,
    },
    /// On or off.
    Switch,
    /// One of these numbers, each with its label.
    Menu(Vec<(i64, String)>),
    /// Something that can't be set from a config: a button, a text, a table.
    Other,
}

impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Takes::Number { minimum, maximum, step: 1 } => write!(f, "a whole number from {minimum} to {maximum}"),
            Takes::Number { minimum, maximum, step } => {
                write!(f, "a whole number from {minimum} to {maximum} in steps of {step}")
            }
            Takes::Switch => f.write_str("true or false"),
            Takes::Menu(items) => {
                let labels: Vec<String> = items.iter().map(|(_, label)| format!("{label:?}")).collect();
                f.write_str(&labels.join(", "))
            }
            Takes::Other => f.write_str("nothing that a config can say"),
        }
    }
}

/// A control as a device reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// V4L2's number.
    pub id: u32,
    /// As [`name_of`] makes it.
    pub name: String,
    /// What it takes.
    pub takes: Takes,
    /// It only shows something.
    pub read_only: bool,
}

/// A control and the value that it is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// V4L2's number.
    pub id: u32,
    /// For messages.
    pub name: String,
    /// As V4L2 counts: a switch is 0 or 1, a menu the number of its item.
    pub value: i64,
    /// As the config says it.
    pub said: String,
}

/// A setting that the device didn't take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Of the control.
    pub name: String,
    /// In words.
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.why)
    }
}

/// Why a wish can't be a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFault {
    /// No control of this name.
    #[error("there is no {name}; there are {known}")]
    Unknown {
        /// As configured.
        name: String,
        /// All names.
        known: String,
    },
    /// Not for writing.
    #[error("{name} can only be read")]
    ReadOnly {
        /// Of the control.
        name: String,
    },
    /// Out of range, no such label, or another sort of value.
    #[error("{name} can't be {value}; it takes {takes}")]
    Value {
        /// Of the control.
        name: String,
        /// As configured.
        value: String,
        /// In words.
        takes: String,
    },
}

/// The name that `v4l2-ctl --list-ctrls` prints for a control that the kernel names so: letters and digits, small, and one
/// underscore for whatever stands between them.
pub fn name_of(kernel_name: &str) -> String {
    let words = kernel_name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("_")
}

/// The settings that the wishes come to, in the order in which they are to be made: menus and switches first, because
/// those often decide whether a number counts (automatic exposure and exposure time). All faults at once.
pub fn settle(wishes: &BTreeMap<String, ControlValue>, known: &[Control]) -> Result<Vec<Setting>, Vec<ControlFault>> {
    let (mut settings, mut faults) = (Vec::new(), Vec::new());
    for (name, wish) in wishes {
        match known.iter().find(|c| c.name == *name) {
            None => {
                let names: Vec<&str> = known.iter().map(|c| c.name.as_str()).collect();
                let known = if names.is_empty() { "none at all".into() } else { names.join(", ") };
                faults.push(ControlFault::Unknown { name: name.clone(), known });
            }
            Some(control) if control.read_only => faults.push(ControlFault::ReadOnly { name: name.clone() }),
            Some(control) => match value(&control.takes, wish) {
                Some(value) => {
                    let number = matches!(control.takes, Takes::Number { .. });
                    settings
                        .push((number, Setting { id: control.id, name: name.clone(), value, said: wish.to_string() }))
                }
                None => faults.push(ControlFault::Value {
                    name: name.clone(),
                    value: wish.to_string(),
                    takes: control.takes.to_string(),
                }),
            },
        }
    }
    settings.sort_by_key(|(number, _)| *number);
    if faults.is_empty() { Ok(settings.into_iter().map(|(_, s)| s).collect()) } else { Err(faults) }
}

fn value(takes: &Takes, wish: &ControlValue) -> Option<i64> {
    match (takes, wish) {
        (Takes::Number { minimum, maximum, step }, ControlValue::Number(n)) => {
            let within = (minimum..=maximum).contains(&n);
            (within && n.checked_sub(*minimum)?.checked_rem(*step)? == 0).then_some(*n)
        }
        (Takes::Switch, ControlValue::Switch(on)) => Some(i64::from(*on)),
        (Takes::Menu(items), ControlValue::Label(label)) => {
            items.iter().find(|(_, l)| l == label).map(|(number, _)| *number)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn camera() -> Vec<Control> {
        let control = |id, name: &str, takes| Control { id, name: name.into(), takes, read_only: false };
        vec![
            control(1, "brightness", Takes::Number { minimum: 0, maximum: 255, step: 5 }),
            control(2, "white_balance_automatic", Takes::Switch),
            control(3, "power_line_frequency", Takes::Menu(vec![(0, "Disabled".into()), (2, "60 Hz".into())])),
            Control { read_only: true, ..control(4, "lit", Takes::Switch) },
            control(5, "reset", Takes::Other),
        ]
    }

    fn wish(name: &str, value: ControlValue) -> BTreeMap<String, ControlValue> {
        BTreeMap::from([(name.to_owned(), value)])
    }

    fn fault(name: &str, value: ControlValue) -> String {
        let faults = settle(&wish(name, value), &camera()).expect_err(name);
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults[0].to_string()
    }

    #[test]
    fn names_are_those_of_v4l2_ctl() {
        for (kernel, ours) in [
            ("Power Line Frequency", "power_line_frequency"),
            ("White Balance Temperature, Auto", "white_balance_temperature_auto"),
            ("Exposure Time, Absolute", "exposure_time_absolute"),
            ("U8 8x16 Matrix", "u8_8x16_matrix"),
            ("(odd)", "odd"),
        ] {
            assert_eq!(name_of(kernel), ours);
        }
    }

    #[test]
    fn what_decides_comes_before_the_numbers() {
        let wishes = BTreeMap::from([
            ("brightness".to_owned(), ControlValue::Number(10)),
            ("power_line_frequency".to_owned(), ControlValue::Label("60 Hz".into())),
            ("white_balance_automatic".to_owned(), ControlValue::Switch(false)),
        ]);
        let settings = settle(&wishes, &camera()).expect("all of them can be");
        let made: Vec<_> = settings.iter().map(|s| (s.name.as_str(), s.value)).collect();
        assert_eq!(made, [("power_line_frequency", 2), ("white_balance_automatic", 0), ("brightness", 10)]);
    }

    #[test]
    fn what_cannot_be_set_says_what_can() {
        use ControlValue::{Label, Number, Switch};
        assert!(fault("brigthness", Number(1)).starts_with("there is no brigthness; there are brightness, white_"));
        let range = "it takes a whole number from 0 to 255 in steps of 5";
        assert_eq!(fault("brightness", Number(256)), format!("brightness can't be 256; {range}"));
        assert_eq!(fault("brightness", Number(3)), format!("brightness can't be 3; {range}"));
        assert_eq!(fault("brightness", Switch(true)), format!("brightness can't be true; {range}"));
        assert_eq!(
            fault("white_balance_automatic", Number(1)),
            "white_balance_automatic can't be 1; it takes true or false"
        );
        let menu = "power_line_frequency can't be \"50 Hz\"; it takes \"Disabled\", \"60 Hz\"";
        assert_eq!(fault("power_line_frequency", Label("50 Hz".into())), menu);
        assert_eq!(fault("lit", Switch(true)), "lit can only be read");
        assert!(fault("reset", Switch(true)).contains("nothing that a config can say"));
        assert!(settle(&wish("any", Number(1)), &[]).expect_err("none")[0].to_string().contains("none at all"));
    }

    proptest! {
        /// Whatever a device reports, also nonsense: a number that is set is one that it takes.
        #[test]
        fn a_number_is_on_a_step_and_in_range(minimum: i64, maximum: i64, step in 1..i64::MAX, n: i64) {
            let control = Control { id: 1, name: "a".into(), takes: Takes::Number { minimum, maximum, step }, read_only: false };
            if let Ok(settings) = settle(&wish("a", ControlValue::Number(n)), &[control]) {
                prop_assert_eq!(settings[0].value, n);
                prop_assert!(minimum <= n && n <= maximum && (i128::from(n) - i128::from(minimum)) % i128::from(step) == 0);
            }
        }
    }
}
