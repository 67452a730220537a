//! What the shim says and is told, in plain types.

use std::fmt;

/// Declares the kinds by the codes of `vedette_trt.h`.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// What went wrong, as the shim tells it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
            /// A shim from the future.
            Other(i32),
        }

        impl Kind {
            pub(super) fn of(code: i32) -> Kind {
                match code {
                    $($code => Kind::$name,)*
                    other => Kind::Other(other),
                }
            }

            #[cfg(test)]
            pub(super) const ALL: &'static [(Kind, i32)] = &[$((Kind::$name, $code),)*];
        }
    };
}

kinds! {
    /// The caller's mistake.
    Argument = 1,
    /// The library cannot be opened.
    Library = 2,
    /// It lacks an entry point.
    Symbol = 3,
    /// It is of another version than the shim's headers.
    Version = 4,
    /// It would not make a runtime, builder or parser: no GPU, no driver.
    Create = 5,
    /// It does not take the plan.
    Plan = 6,
    /// Its parser does not take the ONNX.
    Parse = 7,
    /// The ONNX has other inputs or outputs than were named.
    Network = 8,
    /// This version does not have the option.
    Unsupported = 9,
    /// No plan came of the network.
    Build = 10,
    /// Out of memory, of the host or of the GPU.
    Memory = 11,
    /// The build was told to stop.
    Cancelled = 12,
    /// A shape, an address or the work itself was refused.
    Run = 13,
}

/// An error of the shim or of the library behind it, in its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimError {
    /// What kind.
    pub kind: Kind,
    /// What was tried, and the library's own words.
    pub message: String,
}

impl fmt::Display for ShimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ShimError {}

/// A version as `getInferLibVersion` counts it: major 10 and later, and TensorRT-RTX, 10,000 a major; before, 1,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub i32);

impl Version {
    /// The number before the first dot.
    pub fn major(self) -> i32 {
        self.parts().0
    }

    /// Major, minor, patch.
    pub fn parts(self) -> (i32, i32, i32) {
        let major = if self.0 < 10_000 { 1_000 } else { 10_000 };
        (self.0 / major, self.0 % major / 100, self.0 % 100)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = self.parts();
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// How a network is to be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Typing {
    /// As the network's types say (strongly typed); TensorRT 10 and later.
    AsTyped = 0,
    /// In FP32 throughout.
    Fp32 = 1,
    /// In FP16 where it is faster, from the FP32 network; before TensorRT 11.
    Fp16Flag = 2,
}

/// What a tensor's items are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Items {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// Bytes.
    U8,
    /// Something that no model of ours has at its edges.
    Other(i32),
}

/// An input or output of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// Or an output.
    pub is_input: bool,
    /// Of what.
    pub items: Items,
    /// All dimensions but the first, which is the batch.
    pub dims: Vec<usize>,
    /// The smallest batch; 0 for outputs.
    pub min_batch: usize,
    /// The largest batch; 0 for outputs.
    pub max_batch: usize,
}

impl Tensor {
    /// Bytes of one item of the batch.
    pub fn stride_bytes(&self) -> usize {
        let each = match self.items {
            Items::F32 => 4,
            Items::F16 => 2,
            Items::U8 => 1,
            Items::Other(_) => 8,
        };
        self.dims.iter().product::<usize>() * each
    }
}

/// A plan to be built.
pub struct Request<'a> {
    /// The network.
    pub onnx: &'a [u8],
    /// Which outputs are wanted.
    pub outputs: &'a [&'a str],
    /// Smallest, likeliest and largest batch.
    pub batches: [i64; 3],
    /// In what it computes.
    pub precision: Typing,
    /// On this DLA core, with the GPU for the rest.
    pub dla_core: Option<u8>,
    /// How hard to look for the fastest kernels, 0 to 5.
    pub optimisation_level: Option<u8>,
    /// Largest scratch memory of a layer; 0: the library's default.
    pub workspace_bytes: u64,
    /// Of an earlier build.
    pub timing_cache: Option<&'a [u8]>,
}

/// What came of it.
pub struct Built {
    /// The plan.
    pub plan: Vec<u8>,
    /// The timing cache as it is now.
    pub timing_cache: Option<Vec<u8>>,
}

/// Hears of a build's phase, step and steps (0: not known); false breaks it off.
pub type Progress<'a> = dyn FnMut(&str, u32, u32) -> bool + Send + 'a;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_counted_as_the_library_counts() {
        for (number, text, major) in
            [(8502, "8.5.2", 8), (8601, "8.6.1", 8), (100_300, "10.3.0", 10), (10_500, "1.5.0", 1)]
        {
            assert_eq!((Version(number).to_string(), Version(number).major()), (text.to_owned(), major));
        }
    }
}
