//! What a kill, a power cut or a full disk left half done is finished: every `.part` becomes a plain clip of the
//! footage that it has, or goes, with its reason, where nothing in it plays.
//!
//! ```text
//!     row \ files      x.mp4            x.part                     neither
//!     recording        adopted          finished, or lost          lost
//!     lost             as it was        finished, or removed       as it was
//!     done or none     part removed     finished; kept as a file   as it was
//! ```
//!
//! A torn last fragment is cut off by reading up to it ([`super::mp4::index`]). What is half copied (`.tmp`) is
//! removed: its source is still there. A `.part` whose head cannot be read and that is large enough to hold footage is
//! set aside as `.part.damaged`, never deleted; `vedette store check` lists it.
//!
//! What does not belong here: rows and files that disagree after all was well (`store::check`).

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use super::job::Outcome;
use super::mp4::finish::{Finished, Finisher};
use super::mp4::index::{PartIndex, Plain};
use super::paths::Paths;
use super::plan::Ending;
use super::{ClipError, Done, Ledger, Unfinished};
use crate::base::clock::{Mono, Wall};
use crate::base::digest;
use crate::base::error::Chain;

#[cfg(test)]
mod tests;

/// Copied in one step.
const COPY_BYTES: usize = 16 << 20;
/// How long a disk that refuses is left alone.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// A head is a few kB: a file without a readable one that is no larger holds no footage.
const HEAD_MOST_BYTES: u64 = 64 << 10;

const NOTHING_WRITTEN: &str = "the daemon ended before anything of it was on the disk";
const NOTHING_WHOLE: &str = "the daemon ended before its first fragment was whole";
const NO_HEAD: &str = "its recording is damaged from the start; set aside as .part.damaged";

/// A clip that is not finished, and its row, if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Its files.
    pub paths: Paths,
    /// Its row, if that does not say that it is done.
    pub row: Option<Unfinished>,
}

/// How a step went.
#[derive(Debug)]
pub enum Step {
    /// Nothing is left to do, or nothing now.
    Idle,
    /// There is more to do.
    Busy,
    /// A clip is over: to be told to the ledger.
    Over(Outcome),
}

/// Finishes one clip after another, in steps. See the module's documentation.
#[derive(Default)]
pub struct Recovery {
    /// The first is under way.
    todo: VecDeque<Leftover>,
    copying: Option<Finisher>,
    not_before: Mono,
    said: bool,
}

impl Recovery {
    /// Looks for what an earlier run left, in the rows and on the disk. Before anything is recorded.
    pub fn scan(state_dir: &Path, ledger: &dyn Ledger) -> Recovery {
        let rows = ledger.unfinished().unwrap_or_else(|e| {
            log::error!("clips that an earlier run left are not finished in this one: {}", Chain(&e));
            Vec::new()
        });
        let mut found = Files::default();
        if let Err(e) = found.walk(state_dir, Path::new("clips")) {
            log::error!("not all of the clips' directory can be read: {e}");
        }
        for tmp in found.tmp {
            remove(&state_dir.join(tmp));
        }
        let mut leftovers: BTreeMap<String, Leftover> = BTreeMap::new();
        let of = |path: &str| Paths::of_clip(state_dir, path);
        for (path, paths) in found.parts.iter().filter_map(|path| Some((path, of(path)?))) {
            leftovers.insert(path.clone(), Leftover { paths, row: None });
        }
        for row in rows {
            let Some(paths) = of(&row.path) else { continue };
            // One given up without a file has nothing to give.
            if !row.lost || leftovers.contains_key(&row.path) {
                leftovers.insert(row.path.clone(), Leftover { paths, row: Some(row) });
            }
        }
        if !leftovers.is_empty() {
            log::warn!("clips: an earlier run left {} unfinished; they are finished now", leftovers.len());
        }
        Recovery { todo: leftovers.into_values().collect(), ..Recovery::default() }
    }

    /// Takes in a clip that this run could not finish; it is tried again after a while.
    pub fn later(&mut self, leftover: Leftover, now: Mono) {
        self.not_before = now + AGAIN_AFTER;
        self.todo.push_back(leftover);
    }

    /// Clips that wait or are under way.
    pub fn left(&self) -> usize {
        self.todo.len()
    }

    /// Does a bounded piece of work.
    pub fn step(&mut self, now: Mono) -> Step {
        let Some(leftover) = self.todo.front().cloned() else { return Step::Idle };
        let result = match self.copying.take() {
            Some(finisher) => self.copy(&leftover, finisher),
            None if now < self.not_before => return Step::Idle,
            None => self.begin(&leftover),
        };
        match result {
            Ok(step) => {
                self.said = false;
                if self.copying.is_none() {
                    self.todo.pop_front();
                }
                step
            }
            Err(e) => {
                self.failed(&e, now);
                Step::Idle
            }
        }
    }

    fn begin(&mut self, leftover: &Leftover) -> Result<Step, ClipError> {
        let (part, clip) = (leftover.paths.part(), leftover.paths.clip());
        let was_lost = leftover.row.as_ref().is_some_and(|r| r.lost);
        if clip.exists() && !was_lost {
            let Some(row) = &leftover.row else {
                // Its row is done, or nobody's: the file is whole either way, since it has its name.
                remove(&part);
                return Ok(Step::Busy);
            };
            return match adopt(&leftover.paths, row)? {
                Some(done) => {
                    remove(&part);
                    Ok(Step::Over(Outcome::Done(done)))
                }
                None if part.exists() => self.finish(leftover),
                None => Ok(over(leftover, "its file is damaged")),
            };
        }
        if part.exists() { self.finish(leftover) } else { Ok(over(leftover, NOTHING_WRITTEN)) }
    }

    fn finish(&mut self, leftover: &Leftover) -> Result<Step, ClipError> {
        match Finisher::begin(&leftover.paths.part(), &leftover.paths.clip(), None) {
            Ok(finisher) => {
                self.copying = Some(finisher);
                Ok(Step::Busy)
            }
            Err(e @ ClipError::Io { .. }) => Err(e),
            Err(_) => Ok(over(leftover, give_up(&leftover.paths.part())?)),
        }
    }

    fn copy(&mut self, leftover: &Leftover, mut finisher: Finisher) -> Result<Step, ClipError> {
        let Some(finished) = finisher.step(COPY_BYTES)? else {
            self.copying = Some(finisher);
            return Ok(Step::Busy);
        };
        Ok(match &leftover.row {
            Some(row) => Step::Over(Outcome::Done(done(&leftover.paths, row, finisher.began(), finished))),
            None => {
                log::warn!("{} is finished and kept, but no row names it", leftover.paths.clip().display());
                Step::Busy
            }
        })
    }

    /// A disk that refuses may take it later; said once. The others have their turn meanwhile.
    fn failed(&mut self, error: &ClipError, now: Mono) {
        if !std::mem::replace(&mut self.said, true) {
            log::error!("an unfinished clip waits until the disk takes it: {}", Chain(error));
        }
        self.not_before = now + AGAIN_AFTER;
        self.todo.rotate_left(1);
    }
}

/// A whole file whose row does not know it yet.
fn adopt(paths: &Paths, row: &Unfinished) -> Result<Option<Done>, ClipError> {
    let clip = paths.clip();
    let Some(plain) = Plain::read(&clip)? else { return Ok(None) };
    let (sha256, size_bytes) = digest::of_file(&clip).map_err(|e| ClipError::io("read", &clip, e))?;
    // The `.part` says it to the millisecond, if it is still there.
    let part = paths.part();
    let exact = File::open(&part).ok().and_then(|file| PartIndex::read(&file, &part).ok()).map(|index| index.began());
    let finished = Finished { samples: 0, duration_ms: plain.duration_ms, size_bytes, sha256 };
    Ok(Some(done(paths, row, exact.unwrap_or(plain.began), finished)))
}

fn done(paths: &Paths, row: &Unfinished, start: Wall, finished: Finished) -> Done {
    Done {
        incident: row.incident,
        camera: row.camera.clone(),
        path: row.path.clone(),
        start,
        duration_ms: finished.duration_ms,
        event_offset_ms: row.incident_start.unix_ms() - start.unix_ms(),
        size_bytes: finished.size_bytes,
        sha256: finished.sha256,
        peak_jpeg_path: paths.jpeg().exists().then(|| paths.jpeg_below()),
        thumbnail: None,
        ending: Ending::Interrupted,
        units_lost: 0,
    }
}

/// There is no clip; news only where the row does not say so yet.
fn over(leftover: &Leftover, reason: &str) -> Step {
    match &leftover.row {
        Some(row) if !row.lost => Step::Over(Outcome::Lost { incident: row.incident, reason: reason.to_owned() }),
        _ => Step::Busy,
    }
}

/// Removes a `.part` that holds no whole fragment, or sets aside what may yet be footage; why it is no clip.
fn give_up(part: &Path) -> Result<&'static str, ClipError> {
    let at = |operation| move |source| ClipError::io(operation, part, source);
    let file = File::open(part).map_err(at("open"))?;
    let bytes = file.metadata().map_err(at("look at"))?.len();
    if PartIndex::read(&file, part).is_err() && bytes > HEAD_MOST_BYTES {
        let aside = part.with_extension("part.damaged");
        fs::rename(part, &aside).map_err(at("set aside"))?;
        log::error!("{} ({bytes} bytes) cannot be read: kept as {}", part.display(), aside.display());
        return Ok(NO_HEAD);
    }
    log::warn!("{} ({bytes} bytes) holds no whole fragment: removed", part.display());
    fs::remove_file(part).map_err(at("remove"))?;
    Ok(NOTHING_WHOLE)
}

fn remove(file: &Path) {
    match fs::remove_file(file) {
        Ok(()) => log::info!("removed {}: its clip is whole, or is made again", file.display()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => log::warn!("could not remove {}: {e}", file.display()),
    }
}

/// What lies below `clips/`, of what this module knows. Paths below the state directory.
#[derive(Default)]
struct Files {
    /// By the path of the clip that each would become.
    parts: Vec<String>,
    tmp: Vec<String>,
}

impl Files {
    /// Takes in a directory; the error is that of the first that could not be read, the others are taken in.
    fn walk(&mut self, state_dir: &Path, below: &Path) -> io::Result<()> {
        let entries = match fs::read_dir(state_dir.join(below)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut result = Ok(());
        for entry in entries {
            let entry = entry?;
            let path = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                result = result.and(self.walk(state_dir, &path));
            } else if let Some(name) = path.to_str() {
                match name.strip_suffix(".part") {
                    Some(stem) => self.parts.push(format!("{stem}.mp4")),
                    None if name.ends_with(".tmp") => self.tmp.push(name.to_owned()),
                    None => {}
                }
            }
        }
        result
    }
}
