//! The GPU: one CUDA context for the process, one stream for each engine.
//!
//! Invariants: nothing here panics where no driver is; all device memory of an engine is used on its one stream.

use std::sync::{Arc, Mutex};

use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUevent_flags as EventFlags, CUresult as CudaError};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError};

use super::ffi::{self, Buffer};

/// Why there is no GPU to run on.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No libcuda.
    #[error("there is no CUDA driver (libcuda.so) on this machine")]
    NoDriver,
    /// The driver said no.
    #[error("CUDA: cannot {operation}: {}", words(error))]
    Cuda {
        /// What was tried.
        operation: &'static str,
        /// What it said.
        error: DriverError,
    },
}

/// The driver's own words; asking for them must not fail either.
pub fn words(e: &DriverError) -> String {
    match e.error_string() {
        Ok(text) => format!("{} ({:?})", text.to_string_lossy(), e.0),
        Err(_) => format!("{:?}", e.0),
    }
}

/// Whether CUDA's documentation says of an error that "the process must be terminated and relaunched": any further work
/// gives the same error.
pub fn is_sticky(e: &DriverError) -> bool {
    use CudaError::*;
    matches!(
        e.0,
        CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_EXTERNAL_DEVICE
    )
}

/// A GPU and a stream on it.
#[derive(Clone)]
pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    done: Arc<CudaEvent>,
}

/// What a GPU is: plans do not travel between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// As the driver calls it.
    pub name: String,
    /// Major and minor.
    pub compute_capability: (i32, i32),
    /// Of the driver: 11040 is 11.4.
    pub cuda: i32,
    /// Multiprocessors.
    pub multiprocessors: i32,
    /// Shares its memory with the processor, as on a Jetson.
    pub integrated: bool,
}

impl Device {
    /// The first GPU, with a stream of its own.
    pub fn open() -> Result<Device, DeviceError> {
        if !ffi::has_driver() {
            return Err(DeviceError::NoDriver);
        }
        let fail = |operation| move |error| DeviceError::Cuda { operation, error };
        let context = CudaContext::new(0).map_err(fail("open the GPU"))?;
        ffi::order_by_stream(&context);
        let stream = context.new_stream().map_err(fail("make a stream"))?;
        // A thread that waits for the GPU sleeps: what it would spin away is a core of the decoder's.
        let done = context.new_event(Some(EventFlags::CU_EVENT_BLOCKING_SYNC)).map_err(fail("make an event"))?;
        Ok(Device { context, stream, done: Arc::new(done) })
    }

    /// What it is.
    pub fn gpu(&self) -> Result<Gpu, DeviceError> {
        let fail = |error| DeviceError::Cuda { operation: "ask what the GPU is", error };
        Ok(Gpu {
            name: self.context.name().map_err(fail)?,
            compute_capability: self.context.compute_capability().map_err(fail)?,
            cuda: ffi::driver_version().map_err(fail)?,
            multiprocessors: self
                .context
                .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
                .map_err(fail)?,
            integrated: self.context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED).map_err(fail)? != 0,
        })
    }

    /// Free and total device memory, in bytes.
    pub fn memory(&self) -> Result<(usize, usize), DriverError> {
        self.context.mem_get_info()
    }

    /// Makes this the GPU of the calling thread: TensorRT works on whatever is current.
    pub fn bind(&self) -> Result<(), DriverError> {
        self.context.bind_to_thread()
    }

    /// Waits until the stream has done all that was put on it, and says what went wrong there.
    pub fn wait(&self) -> Result<(), DriverError> {
        self.done.record(&self.stream)?;
        self.done.synchronize()
    }

    /// Waits, whatever comes of it: before something is let go.
    pub fn settle(&self) {
        if let Err(e) = self.bind().and_then(|()| self.wait()) {
            log::debug!("tensorrt: {}", words(&e));
        }
    }

    /// What CUDA answers if it is of no more use to this process. "Unknown error" is documented as nothing more than
    /// that: who gives it again when asked for nothing but an event is not to be waited for either.
    pub fn lost(&self) -> Option<DriverError> {
        let answer = self.bind().and_then(|()| self.wait()).err()?;
        (is_sticky(&answer) || answer.0 == CudaError::CUDA_ERROR_UNKNOWN).then_some(answer)
    }

    /// Device memory of zeros.
    pub fn alloc(&self, bytes: usize) -> Result<Buffer, DriverError> {
        self.stream.alloc_zeros(bytes).map(|slice| Arc::new(Mutex::new(slice)))
    }

    /// The CUDA context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_new_process_mends_is_told_from_what_may_pass() {
        use CudaError::*;
        for (error, code) in [
            (CUDA_ERROR_ILLEGAL_ADDRESS, 700),
            (CUDA_ERROR_LAUNCH_TIMEOUT, 702),
            (CUDA_ERROR_ILLEGAL_INSTRUCTION, 715),
            (CUDA_ERROR_MISALIGNED_ADDRESS, 716),
            (CUDA_ERROR_INVALID_ADDRESS_SPACE, 717),
            (CUDA_ERROR_INVALID_PC, 718),
            (CUDA_ERROR_LAUNCH_FAILED, 719),
        ] {
            assert_eq!(error as i32, code);
            assert!(is_sticky(&DriverError(error)), "{code}");
        }
        for error in [CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES] {
            assert!(!is_sticky(&DriverError(error)), "{error:?}");
        }
    }
}
