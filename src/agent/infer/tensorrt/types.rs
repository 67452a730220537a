//! What the shim says and is told, in plain types.

use std::fmt;

/// What went wrong, as the shim tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The caller's mistake.
    Argument,
    /// The library cannot be opened.
    Library,
    /// It lacks an entry point.
    Symbol,
    /// It is of another version than the shim's headers.
    Version,
    /// It would not make a runtime, builder or parser: no GPU, no driver.
    Create,
    /// It does not take the plan.
    Plan,
    /// Its parser does not take the ONNX.
    Parse,
    /// The ONNX has other inputs or outputs than were named.
    Network,
    /// This version does not have the option.
    Unsupported,
    /// No plan came of the network.
    Build,
    /// Out of memory, of the host or of the GPU.
    Memory,
    /// The build was told to stop.
    Cancelled,
    /// A shape, an address or the work itself was refused.
    Run,
    /// A shim from the future.
    Other(i32),
}

impl Kind {
    pub(super) fn of(code: i32) -> Kind {
        use Kind::*;
        let known = [
            Argument,
            Library,
            Symbol,
            Version,
            Create,
            Plan,
            Parse,
            Network,
            Unsupported,
            Build,
            Memory,
            Cancelled,
            Run,
        ];
        usize::try_from(code - 1).ok().and_then(|n| known.get(n)).copied().unwrap_or(Other(code))
    }
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
