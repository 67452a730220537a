//! The store and capture as the stages between them see it: the clip stage's ledger and pictures, control's audit.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use super::events::{Event, Events};
use crate::agent::capture::{self, Picture, PixelsError, SmallJpeg};
use crate::agent::clip::{Done, Ledger, LedgerError, Recording, Snapshot, Snapshots, Unfinished};
use crate::agent::config::CameraId;
use crate::agent::control::Audit;
use crate::agent::store::{ClipDone, ClipRecording, Store, StoreError, UnfinishedClip};
use crate::base::error::Chain;
use crate::contract::alert::Thumbnail;

/// JPEG quality of the picture of the peak.
const JPEG_QUALITY: u8 = 85;
/// Pixels.
const THUMBNAIL_WIDTH: u32 = 320;
/// In base64 that makes 32 KiB: with the rest of the alert well below the contract's 64 KiB.
const THUMBNAIL_MOST_BYTES: usize = 24 * 1024;

/// The store as the clip stage's durable record.
pub struct StoreLedger {
    /// Where it is kept.
    pub store: Store,
    /// Who watches.
    pub events: Events,
}

impl Ledger for StoreLedger {
    fn recording(&self, clip: &Recording) -> Result<(), LedgerError> {
        let row = ClipRecording { incident: clip.incident, path: clip.path.clone() };
        self.store.clip_recording(row).map_err(refused)
    }

    fn done(&self, clip: &Done) -> Result<(), LedgerError> {
        let row = ClipDone {
            incident: clip.incident,
            start: clip.start,
            event_offset_ms: clip.event_offset_ms,
            duration_ms: clip.duration_ms,
            size_bytes: clip.size_bytes,
            sha256: clip.sha256.clone(),
            peak_jpeg_path: clip.peak_jpeg_path.clone(),
            thumbnail: clip.thumbnail.clone(),
        };
        self.store.clip_done(row).map_err(refused)?;
        let length = Duration::from_millis(clip.duration_ms);
        log::info!(incident:% = clip.incident, camera:% = clip.camera; "clip {} of incident {}: {:.1} s, {}{}", clip.path, clip.incident, length.as_secs_f32(), clip.ending.as_str(), match clip.units_lost { 0 => String::new(), n => format!(", {n} access units missing") });
        self.events.announce(Event::Clip { incident: clip.incident, result: Ok(clip.path.clone()) });
        Ok(())
    }

    fn lost(&self, incident: Uuid, reason: &str) -> Result<(), LedgerError> {
        self.store.clip_lost(incident, reason).map_err(refused)?;
        log::error!(incident:% = incident; "clip of incident {incident} lost: {reason}");
        self.events.announce(Event::Clip { incident, result: Err(reason.to_owned()) });
        Ok(())
    }

    fn unfinished(&self) -> Result<Vec<Unfinished>, LedgerError> {
        let rows = self.store.reader().unfinished_clips().map_err(refused)?;
        let unfinished = |row: UnfinishedClip| Unfinished {
            incident: row.incident,
            camera: CameraId::new(&row.camera),
            path: row.path,
            incident_start: row.incident_start,
            lost: row.lost,
        };
        Ok(rows.into_iter().map(unfinished).collect())
    }
}

fn refused(e: StoreError) -> LedgerError {
    LedgerError { retry: e.retry(), source: Box::new(e) }
}

/// Capture's newest pictures as the clip stage takes them.
pub struct CapturedPictures {
    /// Of all cameras.
    pub pictures: capture::Snapshots,
    /// Whether small ones are wanted besides.
    pub thumbnails: bool,
}

impl Snapshots for CapturedPictures {
    fn latest(&self, camera: &CameraId) -> Option<Snapshot> {
        let picture = self.pictures.latest(camera)?;
        let taken = picture.to_jpeg(JPEG_QUALITY).and_then(|jpeg| {
            let thumbnail = if self.thumbnails { thumbnail(&picture)? } else { None };
            Ok(Snapshot { jpeg, thumbnail })
        });
        taken.inspect_err(|e| log::warn!(camera:% = camera; "no picture of the peak: {}", Chain(e))).ok()
    }
}

fn thumbnail(picture: &Picture) -> Result<Option<Thumbnail>, PixelsError> {
    let small = picture.to_small_jpeg(THUMBNAIL_WIDTH, THUMBNAIL_MOST_BYTES)?;
    let encoded = |SmallJpeg { width, height, data }| Thumbnail { width, height, jpeg_base64: STANDARD.encode(data) };
    Ok(small.map(encoded))
}

/// The store's audit trail as control writes it.
pub struct AuditTrail(pub Store);

impl Audit for AuditTrail {
    fn note(&self, who: &str, what: &str, outcome: &str) {
        log::info!("{who} asked for {what}: {outcome}");
        if let Err(e) = self.0.audit(who, &format!("{what}: {outcome}")) {
            log::error!("the audit trail was not written: {}", Chain(&e));
        }
    }
}
