//! What `benches/bench.py` can only measure from inside a process. Each subcommand prints one JSON object on standard
//! output: raw values in the unit that their key names, not judged; judging is the script's.
//!
//! | subcommand | measures |
//! |---|---|
//! | `encoder` | the encoder's passes by ONNX Runtime itself, without any of our code around them |
//! | `clip` | writing a clip of units that are in memory |
//! | `alert` | from a camera's access unit to the alert at a subscriber |
//! | `outbox` | an alert's way to the disk, and many alerts' way to a consumer that confirms, beside a bare client |

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

mod alert;
mod clip;
mod encoder;
mod outbox;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rustix::time::{ClockId, clock_gettime};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// What `cargo bench` adds; means nothing here
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Encoder passes at ONNX Runtime's own time
    Encoder {
        #[arg(long)]
        model: PathBuf,
        #[arg(long)]
        onnxruntime: PathBuf,
        #[arg(long)]
        passes: usize,
    },
    /// Clips of the first seconds of a video, written again and again
    Clip {
        #[arg(long)]
        video: PathBuf,
        #[arg(long)]
        dir: PathBuf,
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        #[arg(long)]
        clips: usize,
    },
    /// Latency of alerts of a daemon that watches an RTSP camera
    Alert {
        #[arg(long)]
        rtsp: String,
        /// Port of a broker on the loopback interface
        #[arg(long)]
        broker: u16,
        #[arg(long)]
        model: PathBuf,
        #[arg(long)]
        onnxruntime: PathBuf,
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        incidents: usize,
    },
    /// The durable queue: to the disk, and drained to a broker
    Outbox {
        /// Port of a broker on the loopback interface
        #[arg(long)]
        broker: u16,
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        alerts: usize,
    },
}

fn main() -> anyhow::Result<()> {
    // Silent unless asked (RUST_LOG): who reads standard error wants to know why a figure is missing.
    env_logger::init();
    let result = match Arguments::parse().what {
        What::Encoder { model, onnxruntime, passes } => encoder::measure(&model, &onnxruntime, passes)?,
        What::Clip { video, dir, seconds, clips } => clip::measure(&video, &dir, Duration::from_secs(seconds), clips)?,
        What::Alert { rtsp, broker, model, onnxruntime, dir, incidents } => {
            alert::measure(&alert::Setup { rtsp, broker, model, onnxruntime, dir, incidents })?
        }
        What::Outbox { broker, dir, alerts } => outbox::measure(&outbox::Setup { broker, dir, alerts })?,
    };
    println!("{result}");
    Ok(())
}

/// Processor time that the calling thread has used, in the kernel's name too.
fn thread_cpu() -> Duration {
    spent(ClockId::ThreadCPUTime)
}

/// Processor time that this process has used.
fn process_cpu() -> Duration {
    spent(ClockId::ProcessCPUTime)
}

fn spent(clock: ClockId) -> Duration {
    let t = clock_gettime(clock);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}
