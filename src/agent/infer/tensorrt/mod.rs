//! The Jetson's engine: TensorRT, by way of a small C++ shim that is compiled for the TensorRT of the machine.
//!
//! ```text
//!   model directory ──build (a child process)──► plans ──load──► Network x 2 ──► Encoder, Head
//!                        ▲                         │
//!                     machine                    cache, keyed by model, TensorRT, CUDA, GPU and options
//! ```
//!
//! `machine` finds TensorRT, the shim that fits it and the GPU; `types` and `ffi` are the shim's interface (`shim/`
//! its C++); `device` is CUDA; `network` runs one plan; this file makes an [`Engine`] of two.
//!
//! The features of every camera stay in device memory behind the slots: of each frame its view goes up, of each window
//! its probabilities come down, and nothing else.
//!
//! What does not belong here: deciding whether the engine is trusted (`golden`), and when it takes over (`run`).

use std::sync::{Arc, Mutex};

use cudarc::driver::{DriverError, PinnedHostSlice};

use super::manifest::{Manifest, Precision};
use super::slot::SlotPool;
use super::{Encoder, Engine, EngineError, EngineInfo, Head, Slot, all_finite};

pub mod build;
pub mod cache;
pub mod device;
pub mod ffi;
pub mod machine;
pub mod network;
pub mod ready;
pub mod types;

use device::{Device, DeviceError};
use ffi::{Buffer, TensorRt, locked};
use network::{Edges, Network, RunError};
use types::Items;

/// Places for feature vectors that are allocated at once.
const BLOCK: usize = 64;

/// The plans of a model's two networks.
pub struct Plans {
    /// Of the encoder.
    pub encoder: Vec<u8>,
    /// Of the head.
    pub head: Vec<u8>,
    /// In what they compute.
    pub precision: Precision,
    /// The deep learning accelerator that they were built for.
    pub dla_core: Option<u8>,
}

/// Makes an engine of plans. It has a stream of its own, beside whatever else runs on the GPU.
pub fn load(m: &Manifest, library: &Arc<TensorRt>, plans: &Plans, graphs: bool) -> Result<Engine, LoadError> {
    let device = Device::open()?;
    device.bind().map_err(RunError::from)?;
    let gpu = device.gpu()?;
    let network = |which, plan: &[u8], edges: &Edges<'_>| {
        let failed = |e: RunError| LoadError::Network { network: which, source: e.judged(&device) };
        let plan = library.load(plan, plans.dla_core).map_err(|e| failed(e.into()))?;
        Network::new(&device, plan, edges, graphs).map_err(failed)
    };
    let size = m.features.size;
    let view = [m.view.height as usize, m.view.width as usize, m.view.channels()];
    let encoder = Edges { input: (Items::U8, &view), output: ("features", &[size]) };
    let head = Edges { input: (Items::F32, &[m.window, size]), output: ("probabilities", &[m.classes.len()]) };
    let encoder = network(super::Network::Encoder, &plans.encoder, &encoder)?;
    let head = network(super::Network::Head, &plans.head, &head)?;
    let features = Features { device: device.clone(), pool: SlotPool::default(), blocks: Arc::default(), size };
    let pinned = |bytes: usize, count: usize| -> Result<Vec<PinnedHostSlice<u8>>, LoadError> {
        (0..count).map(|_| ffi::pinned(device.context(), bytes).map_err(|e| RunError::from(e).into())).collect()
    };
    let view_bytes = m.view.len_bytes();
    let info = EngineInfo {
        runtime: format!("{} {}, {}", library.shim().flavour(), library.version(), gpu.name),
        precision: plans.precision,
        rounds_elsewhere: true,
        gains_by_batches: true,
    };
    Ok(Engine {
        info,
        encoder: Box::new(TensorRtEncoder {
            views: pinned(view_bytes, encoder.max_batch())?,
            network: encoder,
            features: features.clone(),
            view_bytes,
        }),
        head: Box::new(TensorRtHead {
            probabilities: pinned(m.classes.len() * 4, head.max_batch())?,
            network: head,
            features,
            window: m.window,
            classes: m.classes.len(),
        }),
    })
}

/// Why no engine came of plans.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No GPU.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A plan cannot be used.
    #[error("the plan of the {network} cannot be used")]
    Network {
        /// Which one.
        network: super::Network,
        /// Why.
        source: RunError,
    },
    /// Memory for the cameras.
    #[error(transparent)]
    Memory(#[from] RunError),
}

impl LoadError {
    /// Whether other plans would do better: these are not for this machine, or damaged.
    pub fn is_of_the_plan(&self) -> bool {
        match self {
            LoadError::Network { source: RunError::Shim(e), .. } => {
                matches!(e.kind, types::Kind::Plan | types::Kind::Network)
            }
            LoadError::Network { source: RunError::Mismatch { .. }, .. } => true,
            LoadError::Network { source: RunError::Cuda(_) | RunError::Lost { .. }, .. }
            | LoadError::Device(_)
            | LoadError::Memory(_) => false,
        }
    }

    /// Whether no plan can be loaded in this process any more.
    pub fn is_lost(&self) -> bool {
        match self {
            LoadError::Network { source, .. } | LoadError::Memory(source) => source.is_sticky(),
            LoadError::Device(DeviceError::Cuda { error, .. }) => device::is_sticky(error),
            LoadError::Device(DeviceError::NoDriver) => false,
        }
    }
}

/// The feature vectors in device memory: blocks of [`BLOCK`], never moved.
///
/// Locks: the list of blocks, held to look one up; then one buffer after the other, held while a copy is put on the
/// stream.
#[derive(Clone)]
struct Features {
    device: Device,
    pool: SlotPool,
    blocks: Arc<Mutex<Vec<Buffer>>>,
    size: usize,
}

impl Features {
    fn bytes(&self) -> usize {
        self.size * 4
    }

    /// Where a slot's vector lies.
    fn place(&self, slot: &Slot) -> Result<(Buffer, std::ops::Range<usize>), Failure> {
        let index = self.pool.index_of(slot).ok_or(Failure::Foreign)?;
        let mut blocks = self.blocks.lock().expect("nothing panics while it holds the list of blocks");
        while blocks.len() <= index / BLOCK {
            blocks.push(self.device.alloc(BLOCK * self.bytes()).map_err(RunError::from)?);
        }
        let from = index % BLOCK * self.bytes();
        Ok((Arc::clone(&blocks[index / BLOCK]), from..from + self.bytes()))
    }

    /// From item `item` of `from` into the slot.
    fn keep(&self, slot: &Slot, from: &Buffer, item: usize) -> Result<(), Failure> {
        let (block, range) = self.place(slot)?;
        let at = item * self.bytes();
        let (from, mut block) = (locked(from), locked(&block));
        let copied = self.device.stream().memcpy_dtod(&from.slice(at..at + self.bytes()), &mut block.slice_mut(range));
        Ok(copied.map_err(RunError::from)?)
    }

    /// From the slot to item `item` of `to`.
    fn give(&self, slot: &Slot, to: &Buffer, item: usize) -> Result<(), Failure> {
        let (block, range) = self.place(slot)?;
        let at = item * self.bytes();
        let (block, mut to) = (locked(&block), locked(to));
        let copied = self.device.stream().memcpy_dtod(&block.slice(range), &mut to.slice_mut(at..at + self.bytes()));
        Ok(copied.map_err(RunError::from)?)
    }

    fn read(&self, slot: &Slot) -> Result<Vec<f32>, Failure> {
        let (block, range) = self.place(slot)?;
        let bytes = self.device.stream().clone_dtoh(&locked(&block).slice(range)).map_err(RunError::from)?;
        self.device.wait().map_err(RunError::from)?;
        Ok(floats(&bytes))
    }
}

/// Why a pass gave nothing.
enum Failure {
    Foreign,
    Run(RunError),
}

impl From<RunError> for Failure {
    fn from(e: RunError) -> Failure {
        Failure::Run(e)
    }
}

impl Failure {
    fn of(self, network: super::Network, device: &Device) -> EngineError {
        let source = match self {
            Failure::Foreign => return EngineError::ForeignSlot,
            Failure::Run(e) => Box::new(e.judged(device)),
        };
        match source.is_sticky() {
            true => EngineError::Lost { network, source },
            false => EngineError::Run { network, source },
        }
    }
}

fn cuda(e: DriverError) -> Failure {
    Failure::Run(e.into())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

struct TensorRtEncoder {
    network: Network,
    features: Features,
    /// One for each item of the largest batch.
    views: Vec<PinnedHostSlice<u8>>,
    view_bytes: usize,
}

impl TensorRtEncoder {
    /// At most as many as the plan's largest batch.
    fn pass(&mut self, views: &[&[u8]]) -> Result<Vec<Slot>, Failure> {
        let stream = Arc::clone(self.features.device.stream());
        let device = self.features.device.clone();
        device.bind().map_err(cuda)?;
        // Nothing reads the pinned memory any more, even if the pass before ended early.
        device.wait().map_err(cuda)?;
        for (item, (view, pinned)) in views.iter().zip(&mut self.views).enumerate() {
            pinned.as_mut_slice().map_err(cuda)?.copy_from_slice(view);
            let at = item * self.view_bytes;
            let mut input = locked(self.network.input());
            stream.memcpy_htod(pinned, &mut input.slice_mut(at..at + self.view_bytes)).map_err(cuda)?;
        }
        self.network.run(views.len())?;
        let slots: Vec<Slot> = views.iter().map(|_| self.features.pool.take()).collect();
        for (item, slot) in slots.iter().enumerate() {
            self.features.keep(slot, self.network.output(), item)?;
        }
        // What went wrong on the GPU is said now, of this pass, and not of a later one.
        device.wait().map_err(cuda)?;
        Ok(slots)
    }
}

impl Encoder for TensorRtEncoder {
    fn encode(&mut self, views: &[&[u8]]) -> Result<Vec<Slot>, EngineError> {
        let network = super::Network::Encoder;
        if let Some(odd) = views.iter().find(|v| v.len() != self.view_bytes) {
            let (found, expected) = (format!("a view of {} bytes", odd.len()), self.view_bytes.to_string());
            return Err(EngineError::Input { network, found, expected });
        }
        let mut slots = Vec::with_capacity(views.len());
        for views in views.chunks(self.views.len()) {
            slots.extend(self.pass(views).map_err(|e| e.of(network, &self.features.device))?);
        }
        Ok(slots)
    }

    fn features(&self, slot: &Slot) -> Result<Vec<f32>, EngineError> {
        self.features.read(slot).map_err(|e| e.of(super::Network::Encoder, &self.features.device))
    }
}

struct TensorRtHead {
    network: Network,
    features: Features,
    /// One for each item of the largest batch.
    probabilities: Vec<PinnedHostSlice<u8>>,
    window: usize,
    classes: usize,
}

impl TensorRtHead {
    /// At most as many as the plan's largest batch.
    fn pass(&mut self, windows: &[&[Slot]]) -> Result<Vec<Vec<f32>>, Failure> {
        let stream = Arc::clone(self.features.device.stream());
        let device = self.features.device.clone();
        device.bind().map_err(cuda)?;
        for (item, slot) in windows.iter().copied().flatten().enumerate() {
            self.features.give(slot, self.network.input(), item)?;
        }
        self.network.run(windows.len())?;
        let row = self.classes * 4;
        for (item, pinned) in self.probabilities.iter_mut().enumerate().take(windows.len()) {
            let output = locked(self.network.output());
            stream.memcpy_dtoh(&output.slice(item * row..(item + 1) * row), pinned).map_err(cuda)?;
        }
        device.wait().map_err(cuda)?;
        let read = self.probabilities.iter().take(windows.len());
        read.map(|pinned| pinned.as_slice().map(floats).map_err(cuda)).collect()
    }
}

impl Head for TensorRtHead {
    fn classify(&mut self, windows: &[&[Slot]]) -> Result<Vec<Arc<[f32]>>, EngineError> {
        let network = super::Network::Head;
        if let Some(odd) = windows.iter().find(|w| w.len() != self.window) {
            let (found, expected) = (format!("a window of {} frames", odd.len()), self.window.to_string());
            return Err(EngineError::Input { network, found, expected });
        }
        let mut rows = Vec::with_capacity(windows.len());
        for windows in windows.chunks(self.probabilities.len()) {
            rows.extend(self.pass(windows).map_err(|e| e.of(network, &self.features.device))?);
        }
        all_finite(network, &rows.concat(), self.classes)?;
        Ok(rows.into_iter().map(Arc::from).collect())
    }
}

// Pinned memory is let go only when no copy from or to it is on its way any more.
impl Drop for TensorRtEncoder {
    fn drop(&mut self) {
        self.features.device.settle();
    }
}

impl Drop for TensorRtHead {
    fn drop(&mut self) {
        self.features.device.settle();
    }
}

#[cfg(test)]
mod tests;
