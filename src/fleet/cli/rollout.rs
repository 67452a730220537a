//! `vedette-fleet rollout`: releases offered wave by wave. `start` writes the plan down and carries it out in the terminal;
//! `run` carries out whatever is written down, for systemd.

mod plan;
mod table;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::cli::out::Out;
use crate::base::clock::{Clock, SystemClock};
use crate::base::stop::StopToken;
use crate::fleet::rollout::fleet::{Fleet, Steady};
use crate::fleet::rollout::manager::{Manager, Which, tell};
use crate::fleet::rollout::orders::Order;
use crate::fleet::rollout::settings::{self, DEFAULT, Settings};
use crate::fleet::rollout::state::{Phase, Rollout};
use crate::fleet::rollout::store::{self, Company, Store};
use crate::fleet::rollout::view::view;
use table::Screen;

/// How often a table is drawn anew.
const REFRESH: Duration = Duration::from_secs(1);

/// Offer a release to the fleet, wave by wave, and stop by itself when it does harm
#[derive(Debug, Args)]
pub struct RolloutArgs {
    /// The broker, and where roll-outs are kept
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT)]
    config: PathBuf,

    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Start(Box<plan::StartArgs>),
    Run(RunArgs),
    Status(StatusArgs),
    Pause(OneArgs),
    Resume(OneArgs),
    Abort(AbortArgs),
    List(ListArgs),
}

/// Carry out all roll-outs that are not over, those that are started later too, until stopped
///
/// For systemd: vedette-fleet-rollout.service. Any number may run, on any machines, if the state is in PostgreSQL.
#[derive(Debug, Args)]
struct RunArgs {
    /// Only this one, and end with it
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// Show how a roll-out stands; in a terminal again and again, in place
#[derive(Debug, Args)]
struct StatusArgs {
    /// Default: the latest that is not over
    name: Option<String>,
    /// As JSON, for programs; once
    #[arg(long)]
    json: bool,
    /// Once, in a terminal too
    #[arg(long)]
    once: bool,
}

/// Offer nobody until told otherwise; who is at it goes on (with resume: go on)
#[derive(Debug, Args)]
struct OneArgs {
    /// Default: the one that is not over
    name: Option<String>,
    /// Who says so, for the history; default: the user's name
    #[arg(long)]
    by: Option<String>,
}

/// End it: offer nobody any more, and call off who is at it. What has committed stays
#[derive(Debug, Args)]
struct AbortArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Why, for the history
    #[arg(long)]
    why: Option<String>,
}

/// List all roll-outs, the latest first
#[derive(Debug, Args)]
struct ListArgs {
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

pub fn run(args: RolloutArgs) -> anyhow::Result<ExitCode> {
    let settings = settings::load(&args.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let stop = StopToken::new();
        stop_on_signals(&stop)?;
        let store: Arc<dyn Store> = store::open(&settings.state).await?.into();
        let here = Here { settings, store, steady: Steady::new(Arc::new(SystemClock::new())), stop };
        match args.what {
            What::Start(args) => here.start(*args).await,
            What::Run(args) => here.run(args).await,
            What::Status(args) => here.status(args).await,
            What::Pause(args) => here.tell(args, Order::Pause).await,
            What::Resume(args) => here.tell(args, Order::Resume).await,
            What::Abort(args) => here.tell(args.one, Order::Abort { why: args.why }).await,
            What::List(args) => here.list(args).await,
        }
    })
}

struct Here {
    settings: Settings,
    store: Arc<dyn Store>,
    steady: Steady,
    stop: StopToken,
}

impl Here {
    async fn start(self, args: plan::StartArgs) -> anyhow::Result<ExitCode> {
        if !args.detach && self.settings.broker.is_none() {
            anyhow::bail!("the settings name no [broker]; with --detach somebody else carries it out");
        }
        let now = SystemClock::new().wall();
        let (name, by) = (args.name(now), user(args.by.clone()));
        let company = if args.beside { Company::Beside } else { Company::Alone };
        let detach = args.detach;
        let plan = args.plan(&name)?;
        plan.check()?;
        let rollout = Rollout::new(name.clone(), plan, by, now);
        self.store.create(&rollout, company).await?;
        if detach {
            Out::new().line(&name)?;
            return Ok(ExitCode::SUCCESS);
        }
        self.carry_out(Which::One(name)).await
    }

    async fn run(self, args: RunArgs) -> anyhow::Result<ExitCode> {
        let which = args.only.map_or(Which::All, Which::One);
        self.carry_out(which).await
    }

    /// Until it is settled, or stopped.
    async fn carry_out(self, which: Which) -> anyhow::Result<ExitCode> {
        let broker = self.settings.broker.clone().context("the settings name no [broker]")?;
        let fleet = Arc::new(Fleet::new(self.steady.clone()));
        let listening = {
            let (fleet, stop) = (Arc::clone(&fleet), self.stop.clone());
            tokio::spawn(async move { fleet.listen(&broker, &stop).await })
        };
        let mut manager = Manager::new(Arc::clone(&self.store), Arc::clone(&fleet), self.steady.clone());
        // Of several there is no one table: what happens comes line by line.
        let mut screen = match which {
            Which::One(_) => Screen::new(std::io::stdout().is_terminal()),
            Which::All => Screen::events(),
        };
        let (mut last, mut broken): (Option<Phase>, anyhow::Result<()>) = (None, Ok(()));
        let ended = {
            let shown = |rollout: &Rollout| {
                last = Some(rollout.head.phase.clone());
                if broken.is_ok() {
                    broken = screen.show(&view(rollout), self.steady.now(), fleet.trouble().as_deref());
                }
            };
            let carried = manager.run(&which, &self.stop, shown);
            tokio::select! {
                carried = carried => carried.map_err(anyhow::Error::from),
                // It ends by itself only where nothing can come of it.
                listened = listening => match listened? {
                    Ok(()) => Ok(()),
                    Err(e) => Err(e.into()),
                },
            }
        };
        let interrupted = self.stop.is_stopped();
        self.stop.stop();
        ended.and(broken)?;
        match (&which, last) {
            (Which::One(_), Some(Phase::Done)) => Ok(ExitCode::SUCCESS),
            (Which::One(name), Some(phase)) if phase.is_open() && interrupted => {
                eprintln!("{name} stands still until somebody carries it out: vedette-fleet rollout run --only {name}");
                Ok(ExitCode::SUCCESS)
            }
            (Which::One(_), Some(_)) => Ok(ExitCode::FAILURE),
            _ => Ok(ExitCode::SUCCESS),
        }
    }

    async fn status(self, args: StatusArgs) -> anyhow::Result<ExitCode> {
        let name = self.named(args.name).await?;
        let mut screen = Screen::new(std::io::stdout().is_terminal() && !args.once);
        loop {
            let rollout = self.store.load(&name).await?.rollout;
            if args.json {
                Out::new().line(serde_json::to_string_pretty(&view(&rollout))?)?;
                return Ok(ExitCode::SUCCESS);
            }
            screen.show(&view(&rollout), self.steady.now(), None)?;
            if !screen.is_live() || rollout.is_over() {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::select! {
                () = self.stop.stopped() => return Ok(ExitCode::SUCCESS),
                () = tokio::time::sleep(REFRESH) => {}
            }
        }
    }

    async fn tell(self, args: OneArgs, order: Order) -> anyhow::Result<ExitCode> {
        let name = self.named(args.name).await?;
        let rollout = tell(&*self.store, &self.steady, &name, &user(args.by), &order).await?;
        Out::new().line(format_args!("{name} is {}", rollout.head.phase.as_str()))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn list(self, args: ListArgs) -> anyhow::Result<ExitCode> {
        let entries = self.store.list().await?;
        let mut out = Out::new();
        if args.json {
            out.line(serde_json::to_string_pretty(&entries)?)?;
        } else {
            table::list(&entries).iter().try_for_each(|line| out.line(line))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The one that is meant where none is named: the only one that is not over, else the latest.
    async fn named(&self, name: Option<String>) -> anyhow::Result<String> {
        if let Some(name) = name {
            return Ok(name);
        }
        let entries = self.store.list().await?;
        let under_way: Vec<_> = entries.iter().filter(|e| !e.over).collect();
        match (&under_way[..], &entries[..]) {
            ([one], _) => Ok(one.id.clone()),
            ([], [latest, ..]) => Ok(latest.id.clone()),
            ([], []) => anyhow::bail!("there is no roll-out yet: vedette-fleet rollout start --release N"),
            (several, _) => {
                let names: Vec<_> = several.iter().map(|e| e.id.as_str()).collect();
                anyhow::bail!("several are under way, name one: {}", names.join(", "))
            }
        }
    }
}

fn user(said: Option<String>) -> String {
    let found = said.or_else(|| std::env::var("SUDO_USER").ok()).or_else(|| std::env::var("USER").ok());
    found.filter(|name| !name.is_empty()).unwrap_or_else(|| "somebody".to_owned())
}

fn stop_on_signals(stop: &StopToken) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.stop();
    });
    Ok(())
}
