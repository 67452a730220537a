//! `place`: where a camera or the device is.

use super::kind::{Fault, Kind, number};
use super::section::Section;
use crate::contract::alert::Place;

/// Most characters of a name.
const NAME_MAX: usize = 200;

/// `place`: `latitude` (-90 to 90) and `longitude` (-180 to 180) in degrees, WGS 84, and, if wanted, `name`.
pub(super) fn read(s: &mut Section<'_>) -> Option<Place> {
    let latitude = s.required("latitude", number(-90.0..=90.0, None));
    let longitude = s.required("longitude", number(-180.0..=180.0, None));
    let name = s.optional("name", label());
    Some(Place { latitude: latitude?, longitude: longitude?, name: name? })
}

fn label<'a>() -> Kind<'a, String> {
    Kind::of_text(format!("1 to {NAME_MAX} characters"), |text| match text.chars().count() {
        0 => Err(Fault::new("is empty")),
        n if n > NAME_MAX => Err(Fault::new("is too long")),
        _ => Ok(text.to_owned()),
    })
}
