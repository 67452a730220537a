//! One network on the GPU: its input and output memory, and for each batch size a context and, where the driver can, a
//! CUDA graph.
//!
//! A captured graph is good for the shapes and the state that the context had when it was captured, and changing either
//! is undefined (TensorRT developer guide, "CUDA Graphs"): so each batch size has a context of its own, which never
//! changes. They are made when first asked for, which is when the engine is proven. All of them work in the same scratch
//! memory, which is as large as the largest batch needs: on their one stream they never run at the same time. TensorRT 8.5 lets one context at a
//! time use a plan's profile: there one context takes each batch size in turn, without graphs.

use std::sync::Arc;

use cudarc::driver::DriverError;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::device::{self, Device, words};
use super::ffi::{Buffer, Context, Graph, Plan};
use super::types::{Items, Kind, ShimError, Tensor};

/// Why a network did not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// TensorRT said no.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// CUDA did.
    #[error("CUDA: {}", words(.0))]
    Cuda(DriverError),
    /// Something failed, and CUDA has said ever since that it is of no more use to this process.
    #[error("{first}; since then CUDA: {}", words(since))]
    Lost {
        /// What failed.
        first: Box<RunError>,
        /// What CUDA answers.
        since: DriverError,
    },
    /// The plan has not the inputs and outputs of this network.
    #[error("{what} of the plan is {found}, and the model says {expected}")]
    Mismatch {
        /// Which tensor.
        what: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
}

impl From<DriverError> for RunError {
    fn from(e: DriverError) -> RunError {
        RunError::Cuda(e)
    }
}

impl RunError {
    /// Whether CUDA is of no more use to this process: in the words of its documentation, "the process must be terminated
    /// and relaunched".
    pub fn is_sticky(&self) -> bool {
        match self {
            RunError::Cuda(e) => device::is_sticky(e),
            RunError::Lost { .. } => true,
            RunError::Shim(_) | RunError::Mismatch { .. } => false,
        }
    }

    /// The same, after asking whether CUDA still answers: TensorRT passes on its errors as a line of text, and what is
    /// said of one call may have gone wrong in an earlier one.
    pub fn judged(self, device: &Device) -> RunError {
        if self.is_sticky() {
            return self;
        }
        match device.lost() {
            Some(since) => RunError::Lost { first: Box::new(self), since },
            None => self,
        }
    }
}

/// What a network has to take and give.
pub struct Edges<'a> {
    /// The only input: items, and dimensions but for the batch.
    pub input: (Items, &'a [usize]),
    /// The only output, by name.
    pub output: (&'a str, &'a [usize]),
}

/// See the module's doc.
pub struct Network {
    device: Device,
    plan: Arc<Plan>,
    input: (String, Buffer),
    output: (String, Buffer),
    /// What its contexts work in, one after the other.
    scratch: Buffer,
    /// For the batch sizes 1, 2, ...
    shaped: Vec<Option<Shaped>>,
    /// The only context there may be, and its batch size.
    one: Option<(Context, usize)>,
    graphs: bool,
}

struct Shaped {
    // Before the context: a graph is of it.
    graph: Option<Graph>,
    context: Context,
}

impl Network {
    /// Binds memory for the plan's largest batch. `graphs`: capture one for each batch size.
    pub fn new(device: &Device, plan: Arc<Plan>, edges: &Edges<'_>, graphs: bool) -> Result<Network, RunError> {
        let inputs: Vec<&Tensor> = plan.tensors().iter().filter(|t| t.is_input).collect();
        let [input] = inputs[..] else { return Err(mismatch("the number of inputs", inputs.len(), 1)) };
        let (items, dims) = edges.input;
        if (input.items, &input.dims[..]) != (items, dims) {
            return Err(mismatch("the input", described(input), format!("{items:?} {dims:?}")));
        }
        let (name, dims) = edges.output;
        let outputs: Vec<&Tensor> = plan.tensors().iter().filter(|t| !t.is_input).collect();
        let [output] = outputs[..] else { return Err(mismatch("the number of outputs", outputs.len(), 1)) };
        if (&output.name[..], output.items, &output.dims[..]) != (name, Items::F32, dims) {
            return Err(mismatch("the output", described(output), format!("{name}: F32 {dims:?}")));
        }
        let most = plan.max_batch();
        let buffer = |tensor: &Tensor| device.alloc(tensor.stride_bytes() * most).map(|b| (tensor.name.clone(), b));
        let (input, output) = (buffer(input)?, buffer(output)?);
        let shaped = (0..most).map(|_| None).collect();
        // A plan may need none, and memory of no bytes cannot be had.
        let scratch = device.alloc(usize::try_from(plan.device_bytes()).unwrap_or(usize::MAX).max(256))?;
        Ok(Network { device: device.clone(), input, output, scratch, shaped, one: None, graphs, plan })
    }

    /// The largest batch.
    pub fn max_batch(&self) -> usize {
        self.shaped.len()
    }

    /// Where its input goes, item after item.
    pub fn input(&self) -> &Buffer {
        &self.input.1
    }

    /// Where its output comes, item after item.
    pub fn output(&self) -> &Buffer {
        &self.output.1
    }

    /// Puts a run over the first `batch` items on the stream; it is done when the stream has got there.
    pub fn run(&mut self, batch: usize) -> Result<(), RunError> {
        self.device.bind()?;
        if batch == 0 || batch > self.max_batch() {
            return Err(mismatch("the batch", batch, format!("1 to {}", self.max_batch())));
        }
        // What is behind the batch is computed, too, and looked at by nobody.
        let batch = batch.max(self.plan.min_batch());
        if let Some((context, shape)) = &mut self.one {
            if *shape != batch {
                context.reshape(batch)?;
                *shape = batch;
            }
            return Ok(context.enqueue()?);
        }
        if let Some(shaped) = &mut self.shaped[batch - 1] {
            return shaped.run();
        }
        let context = match self.context(batch) {
            Err(e) if e.kind == Kind::Unsupported => return self.take_turns(batch),
            context => context?,
        };
        self.shaped[batch - 1] = Some(self.first_run(context, batch)?);
        Ok(())
    }

    fn context(&self, batch: usize) -> Result<Context, ShimError> {
        let buffers = [(&self.input.0[..], &self.input.1), (&self.output.0[..], &self.output.1)];
        self.plan.context(batch, (&self.scratch, &buffers), self.device.stream())
    }

    /// Runs a new context, and captures its graph.
    fn first_run(&self, mut context: Context, batch: usize) -> Result<Shaped, RunError> {
        // Once without a graph: what TensorRT puts off until the first run cannot be captured.
        context.enqueue()?;
        self.device.wait()?;
        if !self.graphs {
            return Ok(Shaped { graph: None, context });
        }
        let graph = capture(&self.device, &mut context);
        if graph.is_none() {
            // What a capture that failed has left in the context is nobody's to know.
            drop(context);
            context = self.context(batch)?;
            context.enqueue()?;
        }
        Ok(Shaped { graph, context })
    }

    /// From now on there is one context for all batch sizes.
    fn take_turns(&mut self, batch: usize) -> Result<(), RunError> {
        let first = self.shaped.iter_mut().find_map(Option::take);
        let Some(Shaped { graph, mut context }) = first else {
            return Err(mismatch("the number of contexts that the plan lets be made", 0, "at least 1"));
        };
        drop(graph);
        log::debug!("tensorrt: one context for all batch sizes, without graphs");
        context.reshape(batch)?;
        context.enqueue()?;
        self.one = Some((context, batch));
        Ok(())
    }
}

impl Shaped {
    fn run(&mut self) -> Result<(), RunError> {
        match &mut self.graph {
            Some(graph) => Ok(graph.launch()?),
            None => Ok(self.context.enqueue()?),
        }
    }
}

/// A graph of one run, if the driver and the network can; a network with loops or host work cannot, and needs none.
fn capture(device: &Device, context: &mut Context) -> Option<Graph> {
    let stream = device.stream();
    let began = stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    if let Err(e) = began {
        log::info!("tensorrt: no CUDA graph: {e}");
        return None;
    }
    let enqueued = context.enqueue();
    // Ended in any case: a stream that is left capturing takes no other work.
    let ended = stream.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
    match (enqueued, ended) {
        (Ok(()), Ok(Some(graph))) => Some(Graph::new(graph)),
        (Err(e), _) => {
            log::info!("tensorrt: no CUDA graph: {e}");
            None
        }
        (_, Err(e)) => {
            log::info!("tensorrt: no CUDA graph: {e}");
            None
        }
        (Ok(()), Ok(None)) => None,
    }
}

fn described(t: &Tensor) -> String {
    format!("{}: {:?} {:?}", t.name, t.items, t.dims)
}

fn mismatch(what: &str, found: impl ToString, expected: impl ToString) -> RunError {
    RunError::Mismatch { what: what.into(), found: found.to_string(), expected: expected.to_string() }
}
