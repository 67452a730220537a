//! `vedette engine build`, `verify`, `list` and `gc`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::{ConfigArgs, Outcome, beside};
use crate::agent::cli::out::Out;
use crate::agent::config::{self, Config};
use crate::agent::infer::model::Model;
use crate::agent::infer::tensorrt::build::{Builder, Step};
use crate::agent::infer::tensorrt::cache::{Cache, Entry};
use crate::agent::infer::tensorrt::ready::{Maker, Ready, Remember};
use crate::agent::run::offline;
use crate::base::clock::SystemClock;
use crate::base::error::Chain;
use crate::base::stop::StopToken;

fn read(args: &ConfigArgs) -> anyhow::Result<(Config, Model)> {
    let config = config::load(&args.config)?;
    let model = offline::open_model(&config.model.dir)?;
    Ok((config, model))
}

fn maker<'a>(config: &'a Config, model: &'a Model) -> anyhow::Result<Maker<'a>> {
    let cameras = config.cameras.iter().filter(|c| c.classify).count();
    let clock = Arc::new(SystemClock::new());
    Ok(Maker::new(model, &config.tensorrt, (cameras, &config.paths.state_dir), clock)?)
}

/// What the superuser writes into the daemon's directory the daemon cannot replace.
fn must_be_theirs(state_dir: &Path) -> anyhow::Result<()> {
    let owner = std::fs::metadata(state_dir).map(|m| m.uid()).unwrap_or_default();
    anyhow::ensure!(
        owner == 0 || !rustix::process::geteuid().is_root(),
        "{} belongs to user {owner}, and what root writes there the daemon cannot replace: run this as the daemon's user \
         (sudo -u vedette vedette engine ...)",
        state_dir.display()
    );
    Ok(())
}

pub fn build(args: &ConfigArgs, json: bool) -> anyhow::Result<Outcome> {
    let (config, model) = read(args)?;
    must_be_theirs(&config.paths.state_dir)?;
    let maker = maker(&config, &model)?;
    let mut out = Out::new();
    if !json {
        out.line(format!("building {} for {}", maker.key().model, maker.machine().describe()))?;
    }
    let beside = beside::daemon(&config.paths.runtime_dir)?;
    let mut last = Step::default();
    let mut progress = |step: &Step| {
        if *step == last {
            return;
        }
        last = step.clone();
        let line = if json { json!({ "step": step }).to_string() } else { step.to_string() };
        // Whoever read our output may have read enough; the build goes on.
        out.line(line).ok();
    };
    let ready = maker.build(&Builder::of_this_program(), &StopToken::new(), &mut progress)?;
    // Somebody else may have begun to build meanwhile, and will do it.
    if let Err(e) = maker.collect() {
        log::warn!("{}", Chain(&e));
    }
    describe(&maker, (&ready, beside), json)?;
    Ok(Outcome::Good)
}

pub fn verify(args: &ConfigArgs, json: bool) -> anyhow::Result<Outcome> {
    let (config, model) = read(args)?;
    let maker = maker(&config, &model)?;
    let beside = beside::daemon(&config.paths.runtime_dir)?;
    match maker.cached(Remember::No)? {
        Ok(ready) => {
            describe(&maker, (&ready, beside), json)?;
            Ok(Outcome::Good)
        }
        Err(why) => {
            let mut out = Out::new();
            match json {
                true => out.line(json!({ "missing": why }).to_string())?,
                false => out.line(format!("no engine for {}: {why}", maker.machine().describe()))?,
            }
            Ok(Outcome::SomethingWrong)
        }
    }
}

fn describe(maker: &Maker<'_>, (ready, beside): (&Ready, Option<String>), json: bool) -> anyhow::Result<()> {
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    let (encoder, head) = (&ready.times.encoder, &ready.times.head);
    let mut out = Out::new();
    if json {
        let engine = json!({
            "id": maker.key().id(),
            "key": maker.key(),
            "runtime": ready.engine.info.runtime,
            "proof": {
                "features": ready.proof.features,
                "features_cosine": ready.proof.features_cosine,
                "probabilities": ready.proof.probabilities,
            },
            "beside_daemon": beside.is_some(),
            "batch": encoder.batch,
            "encoder_ms": { "p50": ms(encoder.p50()), "p99": ms(encoder.p99()) },
            "head_ms": { "p50": ms(head.p50()), "p99": ms(head.p99()) },
        });
        out.line(json!({ "engine": engine }).to_string())?;
        return Ok(());
    }
    out.line(format!("{} on {}: proven", maker.key().model, ready.engine.info.runtime))?;
    out.line(format!(
        "  smallest cosine of features {:.6} (largest difference {:.4}), largest difference of a probability {:.5}",
        ready.proof.features_cosine, ready.proof.features, ready.proof.probabilities
    ))?;
    for (what, m) in [("encoder", encoder), ("head", head)] {
        out.line(format!("  {what}, batch {}: p50 {:.2} ms, p99 {:.2} ms", m.batch, ms(m.p50()), ms(m.p99())))?;
    }
    if let Some(words) = beside {
        out.line(format!("  measured {words}"))?;
    }
    out.line("  a daemon that runs takes it over at its next start")?;
    out.line(format!("  kept as {}", maker.cache().dir().join(maker.key().id()).display()))?;
    Ok(())
}

pub fn list(args: &ConfigArgs, json: bool) -> anyhow::Result<Outcome> {
    let (config, model) = read(args)?;
    let entries = Cache::new(&config.paths.state_dir).list();
    // On a machine without TensorRT there may be plans of one that had it: they are listed all the same.
    let in_use = maker(&config, &model).ok().map(|maker| maker.key().id());
    let mut out = Out::new();
    if json {
        let rows: Vec<_> = entries.iter().map(|e| row(e, in_use.as_deref())).collect();
        out.line(serde_json::Value::from(rows))?;
        return Ok(Outcome::Good);
    }
    if entries.is_empty() {
        out.line("no engines are kept")?;
    }
    for e in &entries {
        let mark = if in_use.as_deref() == Some(&e.id) { "* " } else { "  " };
        let what = match &e.listing {
            None => "cannot be read".to_owned(),
            Some(l) => {
                let state = match &l.refused {
                    Some(why) => format!("REFUSED: {why}"),
                    None => format!("built in {:.0} s", l.build_s),
                };
                let k = &l.key;
                format!("{}, {}, batch {}, {}, {}; {state}", k.model, k.precision, k.max_batch, k.tensorrt, k.gpu)
            }
        };
        out.line(format!("{mark}{}  {:>6.1} MB  {what}", e.id, e.bytes as f64 / 1e6))?;
    }
    Ok(Outcome::Good)
}

fn row(e: &Entry, in_use: Option<&str>) -> serde_json::Value {
    json!({ "id": e.id, "bytes": e.bytes, "in_use": in_use == Some(&e.id), "plans": e.listing })
}

pub fn gc(args: &ConfigArgs, all: bool) -> anyhow::Result<Outcome> {
    let (config, model) = read(args)?;
    must_be_theirs(&config.paths.state_dir)?;
    let maker = maker(&config, &model).ok();
    let key = maker.as_ref().map(Maker::key);
    anyhow::ensure!(
        !all || key.is_some(),
        "which engine is in use cannot be told here (no TensorRT, or no GPU): nothing was let go"
    );
    let keep: Vec<String> = key.iter().map(|key| key.id()).collect();
    let most = if all { 0 } else { config.tensorrt.cache_bytes };
    let cache = Cache::new(&config.paths.state_dir);
    let gone = match cache.dir().exists() {
        true => cache.collect(&cache.lock()?, key, &keep, most)?,
        false => Vec::new(),
    };
    let mut out = Out::new();
    for id in &gone {
        out.line(format!("let go: {id}"))?;
    }
    out.line(format!("{} let go, {} kept", gone.len(), cache.list().len()))?;
    Ok(Outcome::Good)
}
