//! The only file with `unsafe` of the TensorRT engine: the shim's C interface (`shim/vedette_trt.h`, in Rust's words in
//! `raw`) behind types that cannot be misused, and the two calls of cudarc that are unsafe.
//!
//! Invariants, which make what is offered here safe: an object of the shim is made by its own constructor, is held by
//! whoever holds what was made from it, and is freed once, after these; a [`Context`] holds the device memory that it
//! was told the addresses of, and each was found large enough for the largest batch; nothing of it is freed while the
//! stream that it was last put on still works. Contexts that share scratch memory are put on one stream, so that they
//! work one after the other.
//!
//! What does not belong here: deciding anything.
#![allow(unsafe_code)]

mod raw;

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaContext, CudaGraph, CudaSlice, CudaStream, DevicePtr, DriverError, PinnedHostSlice};
use libloading::Library;

use self::raw::{ABI, Log, MAX_DIMS, NAME_BYTES, Raw, RawBuild, RawError, RawTensor};
use super::types::{Built, Kind, Progress, Request, ShimError, Tensor, Version};
use crate::base::error::Chain;

/// Device memory that several contexts may know.
pub type Buffer = Arc<Mutex<CudaSlice<u8>>>;

/// The table of the shim's functions, each found by its own name.
macro_rules! table {
    ($($name:ident: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        struct Functions { $($name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)* }
        impl Functions {
            fn of(library: &Library) -> Result<Functions, libloading::Error> {
                // SAFETY: these are the names and the types of `vedette_trt.h`; whether the library is one with that
                // interface has been asked of `vt_abi`, whose type never changes.
                unsafe { Ok(Functions { $($name: *library.get(stringify!($name).as_bytes())?,)* }) }
            }
        }
    };
}
raw::functions!(table);

/// The version of the TensorRT library at `path`, asked of its one C function that all versions have.
pub fn library_version(path: &Path) -> Result<Version, ShimError> {
    let unfit = |kind, e: libloading::Error| ShimError { kind, message: format!("{}: {}", path.display(), Chain(&e)) };
    // SAFETY: opening runs the library's initialisers: it is NVIDIA's, named by the installer or by the system.
    let library = unsafe { Library::new(path) }.map_err(|e| unfit(Kind::Library, e))?;
    // SAFETY: `getInferLibVersion` has this type in every version since TensorRT 4.
    let version: libloading::Symbol<'_, unsafe extern "C" fn() -> i32> =
        unsafe { library.get(b"getInferLibVersion") }.map_err(|e| unfit(Kind::Symbol, e))?;
    // SAFETY: as above; it takes nothing and touches nothing.
    let version = unsafe { version() };
    // Closing and opening it again is slow, and what it started does not always survive: it stays.
    std::mem::forget(library);
    Ok(Version(version))
}

/// A compiled shim, opened.
pub struct Shim {
    functions: Functions,
    path: PathBuf,
    _library: Library,
}

impl Shim {
    /// Opens the shim at `path`. It loads nothing of NVIDIA.
    pub fn open(path: &Path) -> Result<Arc<Shim>, ShimError> {
        let unfit = |e: libloading::Error| ShimError {
            kind: Kind::Library,
            message: format!("{} cannot be used as a TensorRT shim: {}", path.display(), Chain(&e)),
        };
        // SAFETY: the shim is ours; it has no initialisers of its own.
        let library = unsafe { Library::new(path) }.map_err(unfit)?;
        // SAFETY: `vt_abi` has this type in every version of the interface.
        let abi: libloading::Symbol<'_, unsafe extern "C" fn() -> i32> =
            unsafe { library.get(b"vt_abi") }.map_err(unfit)?;
        // SAFETY: as above.
        let abi = unsafe { abi() };
        if abi != ABI {
            let path = path.display();
            let message = format!(
                "{path} has interface {abi}, and this agent needs {ABI}: build it again with `vedette engine build-shim`"
            );
            return Err(ShimError { kind: Kind::Version, message });
        }
        let functions = Functions::of(&library).map_err(unfit)?;
        Ok(Arc::new(Shim { functions, path: path.into(), _library: library }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version of the headers that it was compiled with.
    pub fn headers(&self) -> Version {
        // SAFETY: takes nothing and may be called at any time.
        Version(unsafe { (self.functions.vt_headers_version)() })
    }

    /// "TensorRT" or "TensorRT-RTX".
    pub fn flavour(&self) -> String {
        // SAFETY: takes nothing; gives a constant that ends with 0.
        unsafe { CStr::from_ptr((self.functions.vt_flavour)()) }.to_string_lossy().into_owned()
    }
}

/// The TensorRT library, opened by the shim of its version.
pub struct TensorRt {
    shim: Arc<Shim>,
    raw: Raw,
    loading: Mutex<()>,
}

// SAFETY: what may be called through `&self` is: the version, a constant; `build`, whose builder, network and parser are
// made for the call; and `load`, which takes turns under `loading`, for the shim keeps one runtime.
unsafe impl Send for TensorRt {}
// SAFETY: as above.
unsafe impl Sync for TensorRt {}

extern "C" fn log(_: *mut c_void, severity: i32, message: *const c_char) {
    if message.is_null() {
        return;
    }
    // SAFETY: the header says that it ends with 0 and lives for the call.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    let level = match severity {
        0 | 1 => log::Level::Error,
        2 => log::Level::Warn,
        3 => log::Level::Debug,
        _ => log::Level::Trace,
    };
    log::log!(target: "tensorrt", level, "{message}");
}

impl TensorRt {
    /// Opens `library` with `shim`, and `parser` where something will be built.
    pub fn open(shim: Arc<Shim>, library: &Path, parser: Option<&Path>) -> Result<Arc<TensorRt>, ShimError> {
        let (library, parser) = (c_path(library)?, parser.map(c_path).transpose()?);
        let (mut raw, mut error) = (null_mut(), RawError::new());
        let parser = parser.as_ref().map_or(null(), |p| p.as_ptr());
        // SAFETY: both strings end with 0 and live for the call; `log` may be called from any thread; `raw` and `error`
        // are ours to be filled.
        let code = unsafe { (shim.functions.vt_open)(library.as_ptr(), parser, log, null_mut(), &mut raw, &mut error) };
        error.result(code)?;
        // TensorRT keeps pointers to its logger, which lies in the shim: that is never unloaded.
        std::mem::forget(Arc::clone(&shim));
        Ok(Arc::new(TensorRt { shim, raw, loading: Mutex::new(()) }))
    }

    /// What the library says it is.
    pub fn version(&self) -> Version {
        // SAFETY: `raw` is alive as long as `self`.
        Version(unsafe { (self.shim.functions.vt_library_version)(self.raw) })
    }

    /// The shim it was opened with.
    pub fn shim(&self) -> &Shim {
        &self.shim
    }

    /// Builds a plan; `progress` hears of each step and may break it off.
    pub fn build(&self, request: &Request<'_>, progress: &mut Progress<'_>) -> Result<Built, ShimError> {
        let outputs = request.outputs.iter().map(|o| c_text(o)).collect::<Result<Vec<_>, _>>()?;
        let outputs: Vec<*const c_char> = outputs.iter().map(|o| o.as_ptr()).collect();
        let step = Mutex::new(Step { tell: progress, panicked: false });
        let raw = RawBuild {
            onnx: request.onnx.as_ptr().cast(),
            onnx_bytes: request.onnx.len() as u64,
            outputs: outputs.as_ptr(),
            output_count: u32::try_from(outputs.len()).expect("a handful"),
            batches: request.batches,
            precision: request.precision as i32,
            dla_core: request.dla_core.map_or(-1, i32::from),
            optimisation_level: request.optimisation_level.map_or(-1, i32::from),
            workspace_bytes: request.workspace_bytes,
            timing_cache: request.timing_cache.map_or(null(), |c| c.as_ptr().cast()),
            timing_cache_bytes: request.timing_cache.map_or(0, |c| c.len() as u64),
            progress: Some(on_progress),
            progress_user: (&raw const step).cast_mut().cast(),
        };
        let (mut plan, mut cache, mut error) = (null_mut(), null_mut(), RawError::new());
        // SAFETY: every pointer in `raw` is to something that lives until after the call (`outputs` and its strings,
        // `step`, the request's bytes), and the call keeps none of them; the results are ours to be filled.
        let code = unsafe { (self.shim.functions.vt_build_plan)(self.raw, &raw, &mut plan, &mut cache, &mut error) };
        error.result(code)?;
        Ok(Built { plan: self.blob(plan).unwrap_or_default(), timing_cache: self.blob(cache) })
    }

    /// The bytes of a blob, which is freed.
    fn blob(&self, blob: Raw) -> Option<Vec<u8>> {
        if blob.is_null() {
            return None;
        }
        let f = &self.shim.functions;
        // SAFETY: the shim has just given it to us; its data is as long as it says and lives until it is freed, which
        // happens here, once.
        unsafe {
            let bytes = usize::try_from((f.vt_blob_bytes)(blob)).expect("it lies in this address space");
            let copy = std::slice::from_raw_parts((f.vt_blob_data)(blob), bytes).to_vec();
            (f.vt_blob_free)(blob);
            Some(copy)
        }
    }

    /// Makes a plan ready to run. The current device's context has to be bound.
    pub fn load(self: &Arc<Self>, plan: &[u8], dla_core: Option<u8>) -> Result<Arc<Plan>, ShimError> {
        let f = &self.shim.functions;
        let dla_core = dla_core.map_or(-1, i32::from);
        // The shim makes its runtime with the first plan.
        let _one = self.loading.lock().expect("nothing panics under this lock");
        let (mut raw, mut error) = (null_mut(), RawError::new());
        // SAFETY: `plan` lives for the call, which copies what it needs.
        let code = unsafe {
            (f.vt_engine_load)(self.raw, plan.as_ptr().cast(), plan.len() as u64, dla_core, &mut raw, &mut error)
        };
        error.result(code)?;
        let mut plan = Plan { library: Arc::clone(self), raw, tensors: Vec::new() };
        // SAFETY: `raw` is alive as long as `plan`.
        let count = unsafe { (f.vt_engine_tensors)(raw) };
        for index in 0..count {
            let mut tensor =
                RawTensor { name: [0; NAME_BYTES], is_input: 0, ty: 0, rank: 0, dims: [0; MAX_DIMS], batches: [0; 3] };
            // SAFETY: `index` is below the count that it gave; `tensor` is ours to be filled.
            let code = unsafe { (f.vt_engine_tensor)(raw, index, &mut tensor) };
            RawError::new().result(code)?;
            plan.tensors.push(Tensor::of(&tensor)?);
        }
        Ok(Arc::new(plan))
    }
}

impl Drop for TensorRt {
    fn drop(&mut self) {
        // SAFETY: whatever was made from it holds it, so nothing is left.
        unsafe { (self.shim.functions.vt_close)(self.raw) }
    }
}

struct Step<'a, 'b> {
    tell: &'a mut Progress<'b>,
    panicked: bool,
}

extern "C" fn on_progress(user: *mut c_void, phase: *const c_char, step: i32, steps: i32) -> i32 {
    // SAFETY: `user` is the lock around the `Step` of the `build` that is running, which outlives the call; TensorRT may tell
    // of progress from several threads at a time.
    let step_of = unsafe { &*user.cast::<Mutex<Step<'_, '_>>>() };
    let mut step_of = step_of.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let step_of = &mut *step_of;
    let phase = match phase.is_null() {
        true => String::new(),
        // SAFETY: it ends with 0 and lives for the call.
        false => unsafe { CStr::from_ptr(phase) }.to_string_lossy().into_owned(),
    };
    let count = |n: i32| u32::try_from(n).unwrap_or(0);
    let told = std::panic::AssertUnwindSafe(|| (step_of.tell)(&phase, count(step), count(steps)));
    // No panic crosses into C++.
    match std::panic::catch_unwind(told) {
        Ok(go_on) => i32::from(!go_on || step_of.panicked),
        Err(_) => {
            step_of.panicked = true;
            1
        }
    }
}

/// A plan, ready to run.
pub struct Plan {
    library: Arc<TensorRt>,
    raw: Raw,
    tensors: Vec<Tensor>,
}

// SAFETY: an engine may be asked from any thread; it is changed by nobody after it was made.
unsafe impl Send for Plan {}
// SAFETY: as above.
unsafe impl Sync for Plan {}

impl Plan {
    /// Its inputs and outputs.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The smallest batch that it takes: as large as the largest where it was built for a deep learning accelerator.
    pub fn min_batch(&self) -> usize {
        self.tensors.iter().filter(|t| t.is_input).map(|t| t.min_batch).max().unwrap_or(0)
    }

    /// The largest batch that it takes.
    pub fn max_batch(&self) -> usize {
        self.tensors.iter().filter(|t| t.is_input).map(|t| t.max_batch).min().unwrap_or(0)
    }

    /// Device memory that each context needs.
    pub fn device_bytes(&self) -> u64 {
        // SAFETY: `raw` is alive as long as `self`.
        unsafe { (self.library.shim.functions.vt_engine_device_bytes)(self.raw) }
    }

    /// A context for one batch size: each input has `batch` items, each tensor lies in the buffer of its name. It works in
    /// `scratch`, which other contexts may share that are put on the same stream.
    pub fn context(
        self: &Arc<Self>,
        batch: usize,
        (scratch, buffers): (&Buffer, &[(&str, &Buffer)]),
        stream: &Arc<CudaStream>,
    ) -> Result<Context, ShimError> {
        let f = &self.library.shim.functions;
        let (mut raw, mut error) = (null_mut(), RawError::new());
        let made = {
            let memory = locked(scratch);
            let (address, _order) = memory.device_ptr(stream);
            let (address, bytes) = (address as *mut c_void, memory.num_bytes() as u64);
            // SAFETY: the plan is alive; `scratch` is as large as is said, and held for as long as the context is; the
            // result is ours to be filled.
            unsafe { (f.vt_context_new)(self.raw, address, bytes, stream.cu_stream().cast(), &mut raw, &mut error) }
        };
        error.result(made)?;
        let held = buffers.iter().map(|(_, buffer)| *buffer).chain([scratch]).map(Arc::clone).collect();
        let mut context = Context { plan: Arc::clone(self), raw, stream: Arc::clone(stream), _buffers: held };
        for tensor in &self.tensors {
            let name = c_text(&tensor.name)?;
            let found = buffers.iter().find(|(name, _)| *name == tensor.name).map(|(_, buffer)| buffer);
            let needed = tensor.stride_bytes() * self.max_batch();
            let Some(buffer) = found.filter(|b| locked(b).num_bytes() >= needed) else {
                let message = format!("tensor {} needs {needed} bytes of device memory", tensor.name);
                return Err(ShimError { kind: Kind::Argument, message });
            };
            let mut error = RawError::new();
            let buffer = locked(buffer);
            let (address, _order) = buffer.device_ptr(stream);
            // SAFETY: the address is of device memory that `context` holds, and that was found large enough for the
            // largest batch.
            let code = unsafe { (f.vt_context_address)(raw, name.as_ptr(), address as *mut c_void, &mut error) };
            error.result(code)?;
        }
        context.reshape(batch)?;
        Ok(context)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: whatever was made from it holds it, so nothing is left.
        unsafe { (self.library.shim.functions.vt_engine_free)(self.raw) }
    }
}

/// A plan's run at one batch size, on one stream.
pub struct Context {
    plan: Arc<Plan>,
    raw: Raw,
    stream: Arc<CudaStream>,
    _buffers: Vec<Buffer>,
}

// SAFETY: a context belongs to one thread at a time: it is used by `&mut self` only.
unsafe impl Send for Context {}

impl Context {
    /// Gives it another batch size. A graph that was captured of it is of no more use.
    pub fn reshape(&mut self, batch: usize) -> Result<(), ShimError> {
        let most = self.plan.max_batch();
        if batch == 0 || batch > most {
            let message = format!("a batch of {batch}, and the plan takes 1 to {most}");
            return Err(ShimError { kind: Kind::Argument, message });
        }
        for tensor in self.plan.tensors().iter().filter(|t| t.is_input) {
            let name = c_text(&tensor.name)?;
            let mut dims = [0i64; MAX_DIMS];
            let mut rank = 0;
            for (to, size) in dims.iter_mut().zip(std::iter::once(batch).chain(tensor.dims.iter().copied())) {
                *to = i64::try_from(size).expect("a dimension");
                rank += 1;
            }
            let mut error = RawError::new();
            let f = &self.plan.library.shim.functions;
            // SAFETY: `name` ends with 0; `dims` has at least `rank` entries; both live for the call.
            let code = unsafe { (f.vt_context_shape)(self.raw, name.as_ptr(), dims.as_ptr(), rank, &mut error) };
            error.result(code)?;
        }
        Ok(())
    }

    /// Puts the work on its stream, or into the graph that is being captured there.
    pub fn enqueue(&mut self) -> Result<(), ShimError> {
        let mut error = RawError::new();
        // SAFETY: shapes and addresses were set when it was made; the stream is alive as long as `self`.
        let code = unsafe {
            let f = &self.plan.library.shim.functions;
            (f.vt_context_enqueue)(self.raw, self.stream.cu_stream().cast(), &mut error)
        };
        error.result(code)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // What runs still reads the buffers and the context's own memory.
        if let Err(e) = self.stream.synchronize() {
            log::debug!("tensorrt: {e}");
        }
        // SAFETY: it is freed once, when nothing of it runs any more.
        unsafe { (self.plan.library.shim.functions.vt_context_free)(self.raw) }
    }
}

/// A captured graph, which goes where its context goes.
pub struct Graph(CudaGraph);

// SAFETY: CUDA forbids two threads on one graph at once; this one is launched by `&mut self` only.
unsafe impl Send for Graph {}

impl Graph {
    /// Of what was captured.
    pub fn new(graph: CudaGraph) -> Graph {
        Graph(graph)
    }

    /// Puts it on the stream that it was captured from.
    pub fn launch(&mut self) -> Result<(), DriverError> {
        self.0.launch()
    }
}

/// The device memory's lock; nothing panics under it.
pub fn locked(buffer: &Buffer) -> std::sync::MutexGuard<'_, CudaSlice<u8>> {
    buffer.lock().expect("nothing panics while it holds a buffer")
}

/// Whether there is a CUDA driver: without one, cudarc panics.
pub fn has_driver() -> bool {
    // SAFETY: looks for the system's own libcuda and opens it, as every CUDA program does.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// CUDA's version, of the driver: 11040 is 11.4.
pub fn driver_version() -> Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: fills the number that it is given; whether there is a driver was asked before.
    unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

/// Switches off cudarc's own ordering by events, which a graph cannot capture.
pub fn order_by_stream(context: &CudaContext) {
    // SAFETY: every piece of device memory of this module is made and used on the one stream of its engine, and each
    // engine has its own: the stream's order is all the order there is to keep. Pinned memory is not waited for by cudarc
    // any more either: whoever reads or writes it calls `Device::wait` first.
    unsafe { context.disable_event_tracking() }
}

/// Pinned host memory of zeros.
pub fn pinned(context: &Arc<CudaContext>, bytes: usize) -> Result<PinnedHostSlice<u8>, DriverError> {
    // SAFETY: it is filled before anybody reads it.
    let mut memory = unsafe { context.alloc_pinned_with_flags::<u8>(bytes, 0) }?;
    memory.as_mut_slice()?.fill(0);
    Ok(memory)
}

fn c_text(text: &str) -> Result<CString, ShimError> {
    CString::new(text).map_err(|_| ShimError { kind: Kind::Argument, message: format!("{text:?} holds a zero byte") })
}

fn c_path(path: &Path) -> Result<CString, ShimError> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| ShimError { kind: Kind::Argument, message: format!("{path:?} holds a zero byte") })
}

/// Closes what the process that started this one had open: a camera that stays open here cannot be opened anew there.
/// To be called before anything else is opened.
pub fn close_inherited() {
    let numbers = |dir: std::fs::ReadDir| -> Vec<i32> {
        dir.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|n| *n > 2).collect()
    };
    let inherited = std::fs::read_dir("/proc/self/fd").map(numbers).unwrap_or_default();
    // The directory's own is closed by now.
    for n in inherited.into_iter().filter(|n| Path::new(&format!("/proc/self/fd/{n}")).symlink_metadata().is_ok()) {
        // SAFETY: it is open, and nothing in this process has opened it or knows of it.
        drop(unsafe { OwnedFd::from_raw_fd(n) });
    }
}

/// Opens a library so that whoever asks for it by name later gets this one: the CUDA double of the tests.
#[cfg(test)]
pub(super) fn stand_in(path: &Path) {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: a library of our own tests, which has no initialisers to speak of.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    std::mem::forget(library.unwrap_or_else(|e| panic!("{}: {e}: run tests/tensorrt/doubles.sh", path.display())));
}

#[cfg(test)]
mod tests;
