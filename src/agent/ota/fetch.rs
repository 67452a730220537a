//! A release's files, one after the other: what is there already is not fetched, what was begun goes on, what came
//! damaged comes once more.

use std::path::Path;

use tokio::io::AsyncWriteExt;

use super::fault::Trouble;
use super::remote::{Remote, RemoteError};
use super::slots::{Incoming, Slots, disk};
use crate::agent::infer::manifest::FileEntry;
use crate::base::stop::StopToken;
use crate::contract::update::UpdateFault;

/// A file that came damaged so often is damaged where it comes from.
const TRIES: u32 = 3;

/// Fetches what is missing; `tell` hears of bytes fetched so far.
pub async fn fill(
    incoming: &Incoming,
    slots: &Slots,
    (remote, factory): (&Remote, &Path),
    stop: &StopToken,
    tell: &mut dyn FnMut(u64),
) -> Result<(), Trouble> {
    let known = slots.known_files(factory);
    let mut fetched = 0;
    for entry in &incoming.manifest.files {
        if incoming.has(entry) {
            continue;
        }
        if let Some(from) = known.get(&entry.sha256)
            && incoming.copy(entry, from)?
        {
            continue;
        }
        incoming.has_room()?;
        let mut tries = 0;
        loop {
            let before = fetched;
            one(incoming, entry, remote, stop, &mut |bytes| tell(before + bytes)).await?;
            match incoming.take(entry) {
                Ok(()) => break,
                Err(e @ Trouble::Fault(_)) => {
                    tries += 1;
                    if tries == TRIES {
                        return Err(e);
                    }
                    log::warn!("{e}; it is fetched again");
                }
                Err(e) => return Err(e),
            }
        }
        fetched += entry.size_bytes;
        tell(fetched);
    }
    Ok(())
}

/// All that a file has at the repository, into its `.part`; at most as much as was signed.
async fn one(
    incoming: &Incoming,
    entry: &FileEntry,
    remote: &Remote,
    stop: &StopToken,
    tell: &mut dyn FnMut(u64),
) -> Result<(), Trouble> {
    let part = incoming.part(entry);
    incoming.prepare(&part)?;
    let there = tokio::fs::metadata(&part).await.map_or(0, |m| m.len());
    // One that is too long is not what was signed.
    let there = if there > entry.size_bytes { 0 } else { there };
    if there == entry.size_bytes && there > 0 {
        return Ok(());
    }
    let url = remote.place(&format!("files/{}", entry.sha256));
    let mut body = remote.open(&url, there).await.map_err(|e| match &e {
        // The signed manifest says that it is there: a mirror that lags, or one that keeps it back.
        RemoteError::NotFound { .. } => Trouble::Wait(format!("{} of the release: {e}", entry.path)),
        _ => Trouble::of_remote(&e),
    })?;
    let wrong = |e: &std::io::Error| disk(&part, e);
    let mut file = tokio::fs::OpenOptions::new().create(true).write(true).truncate(false).open(&part).await;
    let file = file.as_mut().map_err(|e| wrong(e))?;
    let mut at = body.from();
    file.set_len(at).await.map_err(|e| wrong(&e))?;
    tokio::io::AsyncSeekExt::seek(file, std::io::SeekFrom::Start(at)).await.map_err(|e| wrong(&e))?;
    while let Some(piece) = body.next().await.map_err(|e| Trouble::of_remote(&e))? {
        if stop.is_stopped() {
            file.flush().await.map_err(|e| wrong(&e))?;
            return Err(Trouble::Stopped);
        }
        at += piece.len() as u64;
        if at > entry.size_bytes {
            let words = format!("{url} has more than the {} bytes that were signed", entry.size_bytes);
            drop(tokio::fs::remove_file(&part).await);
            return Err(Trouble::fault(UpdateFault::EndlessData, words));
        }
        file.write_all(&piece).await.map_err(|e| wrong(&e))?;
        tell(at);
    }
    file.flush().await.map_err(|e| wrong(&e))?;
    file.sync_all().await.map_err(|e| wrong(&e))
}
