//! The shim's C interface, `shim/vedette_trt.h`, in Rust's words: its numbers, its structures, its functions' types. Data
//! only, and no `unsafe`: whoever calls it is `ffi`.
//!
//! Invariants: the same as the header's, member by member; a change there raises `VT_ABI`, and [`ABI`] here.
#![forbid(unsafe_code)]

use std::ffi::{c_char, c_void};

use crate::agent::infer::tensorrt::types::{Items, Kind, ShimError, Tensor};

/// What this agent expects `vt_abi()` to say.
pub const ABI: i32 = 3;
pub const MAX_DIMS: usize = 8;
pub const NAME_BYTES: usize = 128;
pub const MESSAGE_BYTES: usize = 2048;

#[repr(C)]
pub struct RawError {
    pub code: i32,
    pub message: [c_char; MESSAGE_BYTES],
}

impl RawError {
    pub fn new() -> RawError {
        RawError { code: 0, message: [0; MESSAGE_BYTES] }
    }

    /// The result of a call that returned `code` and may have filled this.
    pub fn result(self, code: i32) -> Result<(), ShimError> {
        if code == 0 {
            return Ok(());
        }
        let message = text_of(&self.message);
        let message = if message.is_empty() { format!("the TensorRT shim failed with code {code}") } else { message };
        Err(ShimError { kind: Kind::of(code), message })
    }
}

pub fn text_of(bytes: &[c_char]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|b| b.cast_unsigned()).take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[repr(C)]
pub struct RawTensor {
    pub name: [c_char; NAME_BYTES],
    pub is_input: i32,
    pub ty: i32,
    pub rank: i32,
    pub dims: [i64; MAX_DIMS],
    pub batches: [i64; 3],
}

#[repr(C)]
pub struct RawBuild {
    pub onnx: *const c_void,
    pub onnx_bytes: u64,
    pub outputs: *const *const c_char,
    pub output_count: u32,
    pub batches: [i64; 3],
    pub precision: i32,
    pub dla_core: i32,
    pub optimisation_level: i32,
    pub workspace_bytes: u64,
    pub timing_cache: *const c_void,
    pub timing_cache_bytes: u64,
    pub progress: Option<extern "C" fn(*mut c_void, *const c_char, i32, i32) -> i32>,
    pub progress_user: *mut c_void,
}

/// An opaque object of the shim.
pub type Raw = *mut c_void;
pub type Log = extern "C" fn(*mut c_void, i32, *const c_char);

/// Hands the shim's functions, each with its own name, to the macro that makes a table of them.
macro_rules! functions {
    ($table:ident) => {
        $table! {
            vt_headers_version: fn() -> i32;
            vt_flavour: fn() -> *const c_char;
            vt_open: fn(*const c_char, *const c_char, Log, *mut c_void, *mut Raw, *mut RawError) -> i32;
            vt_close: fn(Raw);
            vt_library_version: fn(Raw) -> i32;
            vt_build_plan: fn(Raw, *const RawBuild, *mut Raw, *mut Raw, *mut RawError) -> i32;
            vt_blob_data: fn(Raw) -> *const u8;
            vt_blob_bytes: fn(Raw) -> u64;
            vt_blob_free: fn(Raw);
            vt_engine_load: fn(Raw, *const c_void, u64, i32, *mut Raw, *mut RawError) -> i32;
            vt_engine_free: fn(Raw);
            vt_engine_tensors: fn(Raw) -> u32;
            vt_engine_tensor: fn(Raw, u32, *mut RawTensor) -> i32;
            vt_engine_device_bytes: fn(Raw) -> u64;
            vt_context_new: fn(Raw, *mut c_void, u64, *mut c_void, *mut Raw, *mut RawError) -> i32;
            vt_context_free: fn(Raw);
            vt_context_shape: fn(Raw, *const c_char, *const i64, i32, *mut RawError) -> i32;
            vt_context_address: fn(Raw, *const c_char, *mut c_void, *mut RawError) -> i32;
            vt_context_enqueue: fn(Raw, *mut c_void, *mut RawError) -> i32;
        }
    };
}
pub(super) use functions;

impl Tensor {
    pub(super) fn of(raw: &RawTensor) -> Result<Tensor, ShimError> {
        let name = text_of(&raw.name);
        let rank = usize::try_from(raw.rank).unwrap_or(0).min(MAX_DIMS);
        let closed: Option<Vec<usize>> =
            raw.dims[..rank].iter().skip(1).map(|d| usize::try_from(*d).ok().filter(|d| *d > 0)).collect();
        let Some(dims) = closed.filter(|_| rank > 0) else {
            let message = format!("tensor {name} has the shape {:?}: only its batch may be open", &raw.dims[..rank]);
            return Err(ShimError { kind: Kind::Network, message });
        };
        let items = match raw.ty {
            0 => Items::F32,
            1 => Items::F16,
            5 => Items::U8,
            other => Items::Other(other),
        };
        let [min_batch, _, max_batch] = raw.batches.map(|n| usize::try_from(n).unwrap_or(0));
        Ok(Tensor { name, is_input: raw.is_input != 0, items, dims, min_batch, max_batch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = include_str!("../shim/vedette_trt.h");

    /// The number that the header gives a name.
    fn number(name: &str) -> i32 {
        let of = |line: &'static str| line.trim_start().trim_start_matches("#define ").strip_prefix(name);
        let mut found = HEADER.split(['\n', ',']).filter_map(of);
        let rest = found.next().unwrap_or_else(|| panic!("no {name} in the header"));
        let digits: String = rest.trim_start_matches([' ', '=']).chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|_| panic!("{name} is {rest:?}"))
    }

    #[test]
    fn the_numbers_are_the_header_s() {
        assert_eq!(number("VT_ABI"), ABI);
        let sizes = [("VT_MAX_DIMS", MAX_DIMS), ("VT_NAME_BYTES", NAME_BYTES), ("VT_MESSAGE_BYTES", MESSAGE_BYTES)];
        for (name, ours) in sizes {
            assert_eq!(usize::try_from(number(name)).expect("small"), ours, "{name}");
        }
        for (kind, code) in Kind::ALL {
            let name = format!("VT_{kind:?} ").to_uppercase();
            assert_eq!(number(&name), *code, "{name}");
            assert_eq!(Kind::of(*code), *kind);
        }
        // The enumeration of the header has as many errors, and nothing else begins so.
        let codes =
            HEADER.split_once("VT_OK = 0,").and_then(|(_, rest)| rest.split_once("};")).expect("an enumeration").0;
        assert_eq!(codes.matches("VT_").count(), Kind::ALL.len());
        assert_eq!(Kind::of(99), Kind::Other(99));
    }
}
