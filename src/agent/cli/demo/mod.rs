//! `vedette demo`: the daemon on one camera, with everything it does printed as it happens. `make demo` puts a real
//! RTSP server and a real broker around it.

mod soc;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::{ModelArgs, Outcome};
use crate::agent::config::{self, Config};
use crate::agent::http::client;
use crate::agent::incident::{EvidenceSource, Transition};
use crate::agent::infer::Score;
use crate::agent::run::Daemon;
use crate::agent::run::events::Event;
use crate::base::clock::{Clock, Mono, SystemClock};
use crate::base::stop::StopToken;
use crate::contract::command::{Command, CommandOutcome};
use crate::contract::topics::DeviceTopics;

/// The demo's camera.
const CAMERA: &str = "camera-1";
/// The test alert is raised when the ring holds a whole pre-roll.
const TEST_AFTER: Duration = Duration::from_secs(12);
/// Scores are printed at most so often.
const SCORE_EVERY: Duration = Duration::from_secs(1);

/// Watch the whole way live: video in, scores, an incident, its clip on disk, its alert at a broker
///
/// Nothing criminal may happen in the video, and an honest model stays quiet; so after some seconds a test alert is
/// raised, clearly marked, as `vedette test-alert` raises it on a device. Ctrl-C ends it.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Play this video file in real time, again and again, as the camera
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rtsp", "camera"])]
    video: Option<PathBuf>,

    /// Watch the camera that is plugged in here: /dev/video0, or a link below /dev/v4l (`vedette cameras` lists them)
    #[arg(long, value_name = "DEVICE", conflicts_with = "rtsp")]
    camera: Option<PathBuf>,

    /// Watch this RTSP camera [default, without --video and --camera: a moving test pattern]
    #[arg(long, value_name = "URL")]
    rtsp: Option<String>,

    /// User and password of the RTSP camera, a line each, in a file that others cannot read
    #[arg(long, value_name = "FILE", requires = "rtsp")]
    credentials_file: Option<PathBuf>,

    /// Broker on this machine to deliver to [default: none; incidents and clips stay local]
    #[arg(long, value_name = "mqtt://HOST:PORT")]
    broker: Option<String>,

    /// Directory for the demo's database and clips; it is left as it is afterwards [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// End by itself after so many seconds
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,

    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: DemoArgs) -> anyhow::Result<Outcome> {
    let (dir, temporary) = match &args.dir {
        Some(dir) => (dir.clone(), false),
        None => (std::env::temp_dir().join(format!("vedette-demo-{}", uuid::Uuid::now_v7())), true),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let ended = write_config(&args, &dir).and_then(|path| watch(&args, &path));
    if temporary {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    ended.map(|()| Outcome::Good)
}

/// The demo's configuration is a file like any other, read like any other.
fn write_config(args: &DemoArgs, dir: &Path) -> anyhow::Result<PathBuf> {
    let quoted = |path: &Path| toml::Value::String(path.to_string_lossy().into_owned()).to_string();
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let camera = match (&args.video, &args.camera, &args.rtsp) {
        (Some(video), ..) => format!("kind = \"file\"\npath = {}\nrepeat = true", quoted(&absolute(video))),
        (None, Some(device), _) => format!("kind = \"v4l2\"\ndevice = {}", quoted(&absolute(device))),
        (None, None, Some(url)) => {
            let credentials = args.credentials_file.as_deref();
            let line = credentials.map(|f| format!("\ncredentials_file = {}", quoted(&absolute(f))));
            format!("kind = \"rtsp\"\nurl = {}{}", toml::Value::String(url.clone()), line.unwrap_or_default())
        }
        (None, None, None) => "kind = \"test\"".to_owned(),
    };
    let model = absolute(&args.model.options(None, None)?.model);
    let mut text = format!(
        "[device]\nsite = \"demo\"\nid = \"this-machine\"\n\n[paths]\nstate_dir = {state}\nruntime_dir = {run}\n\n\
         [model]\ndir = {model}\nprecision = \"{precision}\"\nthreads = {threads}\n\n[[camera]]\nid = \"{CAMERA}\"\n{camera}\n",
        state = quoted(dir),
        run = quoted(&dir.join("run")),
        model = quoted(&model),
        precision = args.model.precision,
        threads = args.model.threads,
    );
    if let Some(broker) = &args.broker {
        text.push_str(&format!("\n[mqtt]\nurl = {}\nheartbeat_s = 5\n", toml::Value::String(broker.clone())));
    }
    let path = dir.join("vedette.toml");
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn watch(args: &DemoArgs, config_path: &Path) -> anyhow::Result<()> {
    let config = config::load(config_path)?;
    describe(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stop = StopToken::new();
    let soc = config.mqtt.as_ref().map(|mqtt| {
        let topics = DeviceTopics::new(&config.device.site, &config.device.id)?;
        let consumer = mqtt.consumers.first().cloned().unwrap_or_default();
        let say = |line: String| say("broker", &line);
        Ok::<_, anyhow::Error>(runtime.spawn(soc::listen(
            (mqtt.brokers[0].host.clone(), mqtt.brokers[0].port),
            topics,
            consumer,
            say,
            stop.clone(),
        )))
    });
    let soc = soc.transpose()?;
    let clock = Arc::new(SystemClock::new());
    let runtime_dir = config.paths.runtime_dir.clone();
    let state_dir = config.paths.state_dir.clone();
    let daemon = Daemon::start(config, clock.clone())?;
    let mut events = daemon.events().watch();
    let mut printer = Printer { classes: daemon.classes().to_vec(), clock, state_dir, last_score: None };
    let followed = runtime.block_on(follow(&daemon, &mut events, &mut printer, &runtime_dir, args.seconds));
    say("demo", "ending: open incidents close, clips are finished, the last messages go out");
    let report = daemon.drain();
    while let Ok(event) = events.try_recv() {
        printer.print(event);
    }
    stop.stop();
    if let Some(soc) = soc {
        runtime.block_on(soc)?;
    }
    say("demo", &format!("ended: {report}"));
    followed
}

fn describe(config: &Config) {
    let camera = &config.cameras[0];
    say("demo", &format!("camera {} watches {}", camera.id, camera.source));
    match &config.mqtt {
        Some(mqtt) => say("demo", &format!("alerts go to {}", mqtt.brokers[0])),
        None => say("demo", "no broker: incidents and clips stay on this machine (--broker mqtt://127.0.0.1:1883)"),
    }
}

/// Prints events, raises the test alert when its time has come, and returns when it is to end.
async fn follow(
    daemon: &Daemon,
    events: &mut Receiver<Event>,
    printer: &mut Printer,
    runtime_dir: &Path,
    seconds: Option<u64>,
) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Beside the loop: neither the printing nor Ctrl-C waits for it.
    let test = raise_test(runtime_dir);
    let end = tokio::time::sleep(Duration::from_secs(seconds.unwrap_or(u64::MAX / 4)));
    tokio::pin!(test, end);
    let mut raised = false;
    loop {
        tokio::select! {
            _ = int.recv() => return Ok(()),
            _ = term.recv() => return Ok(()),
            () = &mut end => return Ok(()),
            () = daemon.failed() => anyhow::bail!("a stage of the daemon panicked; its message is above"),
            result = &mut test, if !raised => {
                raised = true;
                result?;
            }
            event = events.recv() => match event {
                Ok(event) => printer.print(event),
                Err(RecvError::Lagged(n)) => say("demo", &format!("{n} events went by unprinted")),
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

/// When its time has come, the same request, over the same socket, as `vedette test-alert`.
async fn raise_test(runtime_dir: &Path) -> anyhow::Result<()> {
    tokio::time::sleep(TEST_AFTER).await;
    say("demo", "nothing may ever happen here, so now a TEST alert is raised: vedette test-alert");
    let command = Command::TestAlert { camera: None };
    match client::submit(runtime_dir, &command, Duration::from_secs(15)).await? {
        CommandOutcome::Accepted { incident, .. } => {
            say("demo", &format!("accepted: test incident {}", incident.unwrap_or_default()));
        }
        CommandOutcome::Rejected { reason } | CommandOutcome::Failed { reason } => {
            say("demo", &format!("not done: {reason}"))
        }
    }
    Ok(())
}

struct Printer {
    classes: Vec<String>,
    clock: Arc<SystemClock>,
    state_dir: PathBuf,
    last_score: Option<Mono>,
}

impl Printer {
    fn print(&mut self, event: Event) {
        match event {
            Event::Camera { camera, state } => say("camera", &format!("{camera} {state}")),
            Event::Score(score) => self.score(&score),
            Event::Incident(transition) => Self::incident(&transition),
            Event::Clip { incident, result: Ok(path) } => {
                say("clip", &format!("of incident {incident}: {}", self.state_dir.join(path).display()));
            }
            Event::Clip { incident, result: Err(why) } => say("clip", &format!("of incident {incident} lost: {why}")),
        }
    }

    fn score(&mut self, score: &Score) {
        let now = self.clock.now();
        if self.last_score.is_some_and(|last| now.since(last) < SCORE_EVERY) {
            return;
        }
        self.last_score = Some(now);
        let bars: Vec<String> = self
            .classes
            .iter()
            .zip(score.probabilities.iter())
            .map(|(class, p)| format!("{class} {p:.2} {:<10}", "#".repeat((p * 10.0).round() as usize)))
            .collect();
        let seen = self.clock.wall_at(score.end).rfc3339();
        let behind_ms = now.since(score.arrival).as_millis();
        say("score", &format!("{}  {}  {behind_ms} ms after its last picture came", &seen[11..], bars.join("  ")));
    }

    fn incident(transition: &Transition) {
        let i = transition.incident();
        let test = if i.source == EvidenceSource::Test { " (a TEST: nothing was seen)" } else { "" };
        let what = match transition {
            Transition::Opened(_) => "OPENED",
            Transition::Updated(_) => "goes on",
            Transition::Closed(..) => "closed",
        };
        say("incident", &format!("{what}: {}{test}, peak score {:.2}, {}", i.class, i.peak_score, i.id));
    }
}

fn say(who: &str, what: &str) {
    println!("{who:>8} | {what}");
}
