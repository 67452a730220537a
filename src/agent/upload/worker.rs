//! One clip at a time: its file, the server, and the rows between them.
//!
//! ```text
//!     file = its row? ─► begun ─┬─ whole: PUT ──────────────────────────────────────┬─► size there = size here? ─► done
//!                               └─ parts: create, row; (part, row)*; complete ──────┘
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use object_store::path::Path as Key;
use uuid::Uuid;

use super::Parts;
use super::plan::{Planner, Trouble, Turn, is_open};
use super::remote::{Remote, RemoteError};
use crate::agent::config::UploadPolicy;
use crate::agent::store::{BY_POLICY, PartsSent, PendingUpload, Store, StoreError, UploadState};
use crate::base::clock::Mono;
use crate::base::digest;
use crate::base::error::Chain;

/// Clips looked at in one turn.
const LOOK_AT: u32 = 64;
/// The watchdog hears of us at least so often.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Why a clip was not sent.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("the store did not answer")]
    Store(#[from] StoreError),
    #[error("its file cannot be read")]
    File(#[source] std::io::Error),
    /// Its clip was deleted, or it was settled otherwise, in the meantime.
    #[error("it is not to be sent any more")]
    Settled,
    /// The schedule closed between two parts.
    #[error("the schedule closed")]
    Closed,
}

/// Sends clips until stopped. An error means that the config cannot be used.
pub async fn run(parts: Parts) -> Result<(), RemoteError> {
    let remote = Remote::new(&parts.upload, &parts.pacing, &parts.counters, &parts.clock)?;
    log::info!(
        "upload: clips go to {remote}, {}",
        match parts.upload.policy {
            UploadPolicy::Always => "all of them",
            UploadPolicy::OnRequest => "those that are asked for",
        }
    );
    let planner = Planner::new(&parts.pacing);
    let mut worker = Worker { remote, planner, parts, said_closed: false };
    let (stop, beat) = (worker.parts.stop.clone(), worker.parts.beat.clone());
    let mut beats = tokio::time::interval(BEAT_EVERY);
    let work = worker.rounds();
    tokio::pin!(work);
    loop {
        tokio::select! {
            // What is under way is let go: its row says where to go on.
            () = stop.stopped() => break,
            () = &mut work => break,
            // Whatever the work waits for is bounded.
            _ = beats.tick() => beat.beat(),
        }
    }
    beat.end();
    Ok(())
}

struct Worker {
    remote: Remote,
    planner: Planner,
    parts: Parts,
    said_closed: bool,
}

impl Worker {
    async fn rounds(&mut self) {
        let mut news = crate::contract::outbox::Outbox::added(&self.parts.store);
        loop {
            let wait = self.round().await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // A clip that is ready says so.
                changed = news.changed(), if wait > Duration::ZERO => {
                    if changed.is_err() {
                        return;
                    }
                    // Alerts come in flocks.
                    tokio::time::sleep(Duration::from_millis(100).min(wait)).await;
                }
            }
        }
    }

    /// One clip, or none; how long to wait before the next.
    async fn round(&mut self) -> Duration {
        let pending = match self.pending().await {
            Ok(pending) => pending,
            Err(e) => {
                log::debug!("upload: {}", Chain(&e));
                return self.parts.pacing.look_every;
            }
        };
        let now = self.parts.clock.now();
        let turn = self.planner.next(now, self.is_open(), &pending);
        if turn != Turn::Closed {
            self.said_closed = false;
        }
        let clip = match turn {
            Turn::Send(clip) => clip,
            Turn::Hold(until) => return until.since(now).min(self.parts.pacing.look_every),
            Turn::Nothing => return self.parts.pacing.look_every,
            Turn::Closed => {
                if !std::mem::replace(&mut self.said_closed, true) {
                    let name = self.parts.upload.schedule.as_ref().map_or("", |s| &s.name);
                    log::info!("upload: {} clips wait for [schedule.{name}]", pending.len());
                }
                return self.parts.pacing.look_every;
            }
        };
        let incident = clip.incident;
        let start = self.parts.clock.now();
        match self.send(&clip).await {
            Ok(url) => {
                self.planner.accepted();
                self.planner.settled(incident);
                let took = self.parts.clock.now().since(start).as_secs_f64();
                log::info!(incident:% = incident; "clip of incident {incident} uploaded: {url} ({} bytes in {took:.1} s)", clip.size_bytes);
            }
            Err(SendError::Settled) => {
                self.planner.settled(incident);
                self.forget(incident).await;
            }
            Err(SendError::Closed) => {}
            Err(e) => self.failed(incident, start, &e).await,
        }
        Duration::ZERO
    }

    fn is_open(&self) -> bool {
        let schedule = self.parts.upload.schedule.as_ref();
        is_open(schedule, self.parts.clock.wall(), (self.parts.knows_time_of_day)())
    }

    /// What waits, after the policy and the clean-up had their turn.
    async fn pending(&mut self) -> Result<Vec<PendingUpload>, StoreError> {
        let always = self.parts.upload.policy == UploadPolicy::Always;
        let (pending, abandoned) = self
            .store(move |store| {
                if always {
                    for incident in store.reader().clips_not_asked_for(LOOK_AT)? {
                        store.request_upload(incident, BY_POLICY)?;
                    }
                }
                Ok((store.reader().pending_uploads(LOOK_AT)?, store.reader().abandoned_uploads(1)?))
            })
            .await?;
        if let Some(abandoned) = abandoned.first().filter(|_| self.is_open()) {
            self.abort(abandoned).await?;
        }
        Ok(pending)
    }

    /// Sends one clip; where it is then.
    async fn send(&mut self, clip: &PendingUpload) -> Result<String, SendError> {
        self.remote.takes(clip.size_bytes)?;
        let path = self.parts.state_dir.join(&clip.path);
        let (size, sha256) = (clip.size_bytes, clip.sha256.clone());
        let file = blocking(move || open(&path, size, &sha256)).await?;
        let file = Arc::new(file);
        let incident = clip.incident;
        self.store(move |store| store.upload_begun(incident)).await?;
        let key = self.key(&clip.path);
        match self.remote.part_bytes(clip.size_bytes) {
            None => {
                let bytes = read(&file, 0, clip.size_bytes as usize).await?;
                self.remote.put(&key, bytes).await?;
            }
            Some(part_bytes) => self.send_parts(clip, &key, &file, part_bytes).await?,
        }
        let there = self.remote.size_of(&key).await?;
        if there != clip.size_bytes {
            let what = format!("the server holds {there} bytes of it instead of {}", clip.size_bytes);
            self.store(move |store| store.upload_parts(incident, None)).await?;
            return Err(RemoteError::new(Trouble::Away, what).into());
        }
        let url = self.remote.url(&key);
        self.store({
            let url = url.clone();
            move |store| store.upload_done(incident, &url)
        })
        .await?;
        Ok(url)
    }

    async fn send_parts(
        &mut self,
        clip: &PendingUpload,
        key: &Key,
        file: &Arc<File>,
        part_bytes: usize,
    ) -> Result<(), SendError> {
        let (incident, url) = (clip.incident, self.remote.url(key));
        let mut sent = match clip.parts.clone().filter(|sent| sent.url == url) {
            Some(sent) => {
                log::info!(incident:% = incident; "upload: {incident} goes on after {} parts", sent.done.len());
                sent
            }
            None => {
                let id = self.remote.begin(key).await?;
                let sent = PartsSent { url, id, part_bytes, done: Vec::new() };
                self.note(incident, &sent).await?;
                sent
            }
        };
        let count = clip.size_bytes.div_ceil(sent.part_bytes as u64) as usize;
        while sent.done.len() < count {
            self.still_wanted(incident).await?;
            let n = sent.done.len();
            let from = n as u64 * sent.part_bytes as u64;
            let bytes = read(file, from, (clip.size_bytes - from).min(sent.part_bytes as u64) as usize).await?;
            match self.remote.part(key, &sent.id, n, bytes).await {
                Ok(word) => sent.done.push(word),
                Err(e) => return Err(self.anew_if_unknown(incident, e).await?.into()),
            }
            self.planner.accepted();
            self.note(incident, &sent).await?;
            if sent.done.len() < count && !self.is_open() {
                return Err(SendError::Closed);
            }
        }
        self.still_wanted(incident).await?;
        match self.remote.complete(key, &sent.id, &sent.done).await {
            Ok(()) => Ok(()),
            // It was completed before, and its row not written: then the object is there, and its size decides.
            Err(e) if e.unknown && self.remote.size_of(key).await.is_ok_and(|size| size == clip.size_bytes) => Ok(()),
            Err(e) => Err(self.anew_if_unknown(incident, e).await?.into()),
        }
    }

    /// A server that knows nothing of the upload has let go of its parts.
    async fn anew_if_unknown(&self, incident: Uuid, e: RemoteError) -> Result<RemoteError, StoreError> {
        if e.unknown {
            log::warn!(incident:% = incident; "upload: the server has let go of what it had of {incident}: it is sent anew");
            self.store(move |store| store.upload_parts(incident, None)).await?;
        }
        Ok(e)
    }

    async fn note(&self, incident: Uuid, sent: &PartsSent) -> Result<(), StoreError> {
        let sent = sent.clone();
        self.store(move |store| store.upload_parts(incident, Some(sent))).await
    }

    /// Whether it is still to be sent: its clip may be gone.
    async fn still_wanted(&self, incident: Uuid) -> Result<(), SendError> {
        let row = self.store(move |store| store.reader().upload(incident)).await?;
        match row.map(|row| row.state) {
            Some(UploadState::Queued | UploadState::Uploading) => Ok(()),
            _ => Err(SendError::Settled),
        }
    }

    async fn failed(&mut self, incident: Uuid, start: Mono, e: &SendError) {
        let trouble = match e {
            SendError::Remote(e) => e.trouble,
            // The disk may come back; the file of a clip that was deleted won't, and its row will say so.
            SendError::Store(_) | SendError::Settled | SendError::Closed => Trouble::Away,
            SendError::File(e) if e.kind() == std::io::ErrorKind::NotFound => Trouble::Clip,
            SendError::File(e) if e.kind() == std::io::ErrorKind::InvalidData => Trouble::Clip,
            SendError::File(_) => Trouble::Away,
        };
        self.parts.counters.failures.fetch_add(1, Ordering::Relaxed);
        let why = Chain(e).to_string();
        let give_up = trouble == Trouble::Clip;
        let wait = self.planner.failed(self.parts.clock.now().max(start), incident, trouble);
        match give_up {
            true => log::error!(incident:% = incident; "upload: the clip of {incident} is not sent: {why}"),
            false => log::warn!(
                incident:% = incident;
                "upload: the clip of {incident} is not sent yet, the next try is in {:.0} s: {why}",
                wait.as_secs_f64()
            ),
        }
        if let Err(e) = self.store(move |store| store.upload_trouble(incident, &why, give_up)).await {
            log::debug!("upload: {}", Chain(&e));
        }
    }

    /// Has the server let go of what it has of a clip that is not to be sent any more.
    async fn forget(&mut self, incident: Uuid) {
        log::warn!(incident:% = incident; "upload: the clip of {incident} was deleted before it was sent");
        let abandoned = self.store(|store| store.reader().abandoned_uploads(LOOK_AT)).await;
        if let Ok(rows) = abandoned
            && let Some(row) = rows.iter().find(|row| row.incident == incident)
            && let Err(e) = self.abort(row).await
        {
            log::debug!("upload: {}", Chain(&e));
        }
    }

    /// Once: what the server does not let go of now is its bucket's life-cycle rule's to remove.
    async fn abort(&self, clip: &PendingUpload) -> Result<(), StoreError> {
        let key = self.key(&clip.path);
        if let Some(sent) = clip.parts.as_ref().filter(|sent| sent.url == self.remote.url(&key))
            && let Err(e) = self.remote.abort(&key, &sent.id).await
        {
            log::warn!("upload: parts of the clip of {} stay on the server: {e}", clip.incident);
        }
        let incident = clip.incident;
        self.store(move |store| store.upload_parts(incident, None)).await
    }

    /// `site/device/2026/11/22/camera/180102_incident.mp4`, below the target's prefix.
    fn key(&self, path: &str) -> Key {
        let device = &self.parts.device;
        let below = path.strip_prefix("clips/").unwrap_or(path);
        self.remote.key(&format!("{}/{}/{below}", device.site, device.id))
    }

    async fn store<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.parts.store.clone();
        joined(tokio::task::spawn_blocking(move || ask(&store)).await)
    }
}

/// A clip's file, if it is what its row says.
fn open(path: &Path, size_bytes: u64, sha256: &str) -> std::io::Result<File> {
    let file = File::open(path)?;
    let (is, bytes) = digest::of_file(path)?;
    if (bytes, is.as_str()) != (size_bytes, sha256) {
        let what = format!("{} is not what was recorded: {bytes} bytes with SHA-256 {is}", path.display());
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
    }
    Ok(file)
}

async fn read(file: &Arc<File>, from: u64, len: usize) -> Result<Vec<u8>, SendError> {
    let file = Arc::clone(file);
    blocking(move || {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, from).map(|()| bytes)
    })
    .await
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, SendError> {
    joined(tokio::task::spawn_blocking(f).await).map_err(SendError::File)
}

fn joined<T>(result: Result<T, tokio::task::JoinError>) -> T {
    match result {
        Ok(answer) => answer,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
