//! `vedette engine bench`: how fast the engines of this machine are, in a table that can be compared across devices.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::{ConfigArgs, Outcome, beside};
use crate::agent::cli::out::Out;
use crate::agent::config;
use crate::agent::health::Sensors;
use crate::agent::infer::measure::{Measured, measure};
use crate::agent::infer::tensorrt::build::Builder;
use crate::agent::infer::tensorrt::ready::{Maker, Remember};
use crate::agent::infer::{Engine, manifest::Manifest};
use crate::agent::run::offline;
use crate::base::clock::{Clock, SystemClock};
use crate::base::error::Chain;
use crate::base::stop::StopToken;

/// Measure the model's engines on this machine: frames a second, p50 and p99, temperature, power
///
/// The CPU engine first, then TensorRT, which is built if it is not there. Each row is one network at one batch size, passes
/// back to back, each waited for. Stop the daemon (it says so if one runs), close other programs, and say which power mode the device is in.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Passes of each row
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    passes: u32,

    /// The CPU engine only
    #[arg(long)]
    cpu: bool,

    /// Also write the rows as JSON there
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(args: BenchArgs) -> anyhow::Result<Outcome> {
    let config = config::load(&args.config.config)?;
    let model = offline::open_model(&config.model.dir)?;
    let m = model.manifest();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let sensors = Sensors::of_machine(&config.paths.state_dir);
    let cameras = config.cameras.iter().filter(|c| c.classify).count().max(1);
    let passes = args.passes as usize;
    let mut table = Table { rows: Vec::new(), out: Out::new() };
    table.out.line(format!("{} at {} frames a second a camera, {cameras} cameras", m.title(), m.sample_fps))?;
    let beside = beside::daemon(&config.paths.runtime_dir)?;
    if let Some(words) = &beside {
        table.out.line(format!("MEASURED {words}"))?;
    }
    table.head()?;
    let settings = &config.model;
    let mut cpu = offline::load_engine(&model, settings.precision, settings.threads, settings.onnxruntime.as_deref())?;
    table.engine(m, &mut cpu, (&batches(cameras), passes), (clock.as_ref(), &sensors))?;
    drop(cpu);
    let mut outcome = Outcome::Good;
    if !args.cpu {
        let places = (cameras, config.paths.state_dir.as_path());
        let made = Maker::new(&model, &config.tensorrt, places, clock.clone()).and_then(|maker| {
            match maker.cached(Remember::No)? {
                Ok(ready) => Ok(ready),
                Err(_) => maker.build(&Builder::of_this_program(), &StopToken::new(), &mut |_| {}),
            }
        });
        match made {
            Ok(mut ready) => {
                table.engine(m, &mut ready.engine, (&batches(cameras), passes), (clock.as_ref(), &sensors))?;
            }
            Err(e) => {
                table.out.line(format!("TensorRT: not measured: {}", Chain(&e)))?;
                outcome = Outcome::SomethingWrong;
            }
        }
    }
    if let Some(path) = &args.out {
        let text = serde_json::to_vec_pretty(
            &json!({ "model": m.title(), "beside_daemon": beside.is_some(), "rows": table.rows }),
        )?;
        crate::base::atomic_file::write(path, &text)?;
    }
    Ok(outcome)
}

/// What the rail of all a Jetson draws is called: Orin Nano and NX, AGX Xavier and Thor, Nano and TX2.
const WHOLE_BOARD: [&str; 3] = ["VDD_IN", "VIN", "POM_5V_IN"];

/// 1, and what the device has cameras for.
fn batches(cameras: usize) -> Vec<usize> {
    let mut batches = vec![1, cameras];
    batches.dedup();
    batches
}

struct Table {
    rows: Vec<Value>,
    out: Out,
}

impl Table {
    fn head(&mut self) -> anyhow::Result<()> {
        let columns = format!(
            "{:<44} {:>5} {:<8} {:>5} {:>10} {:>9} {:>9} {:>7} {:>7}",
            "engine", "type", "network", "batch", "items/s", "p50 ms", "p99 ms", "deg C", "watts"
        );
        Ok(self.out.line(columns)?)
    }

    fn engine(
        &mut self,
        m: &Manifest,
        engine: &mut Engine,
        (batches, passes): (&[usize], usize),
        (clock, sensors): (&dyn Clock, &Sensors),
    ) -> anyhow::Result<()> {
        for batch in batches {
            let times = measure(m, engine, (*batch, passes), clock)?;
            let readings = sensors.read(clock.wall());
            // Read right after the passes: the sensors are slower than that.
            let hottest = readings.temperatures_c.values().copied().reduce(f32::max);
            let watts = WHOLE_BOARD.iter().find_map(|rail| readings.power_w.get(*rail)).copied();
            for (network, measured) in [("encoder", &times.encoder), ("head", &times.head)] {
                self.row(engine, network, measured, (hottest, watts))?;
            }
        }
        Ok(())
    }

    fn row(
        &mut self,
        engine: &Engine,
        network: &str,
        m: &Measured,
        (hottest, watts): (Option<f32>, Option<f32>),
    ) -> anyhow::Result<()> {
        let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
        let (p50, p99) = (ms(m.p50()), ms(m.p99()));
        let runtime: String = engine.info.runtime.chars().take(44).collect();
        let power = watts.map_or("-".to_owned(), |w| format!("{w:.1}"));
        let heat = hottest.map_or("-".to_owned(), |c| format!("{c:.0}"));
        self.out.line(format!(
            "{runtime:<44} {:>5} {network:<8} {:>5} {:>10.1} {p50:>9.3} {p99:>9.3} {heat:>7} {power:>7}",
            engine.info.precision.to_string(),
            m.batch,
            m.per_second(),
        ))?;
        self.rows.push(json!({
            "runtime": engine.info.runtime, "precision": engine.info.precision.to_string(), "network": network,
            "batch": m.batch, "items_per_s": m.per_second(), "p50_ms": p50, "p99_ms": p99, "hottest_c": hottest, "board_w": watts,
        }));
        Ok(())
    }
}
