//! Clips and pictures of peaks over the device's own HTTPS, to whoever has a link: read from the disk as they are taken,
//! whole or in ranges, so that a player can seek.
//!
//! | route | answer |
//! |---|---|
//! | `GET /clips/{incident}.mp4?expires=&sig=` | the clip, or 206 a range of it |
//! | `GET /peaks/{incident}.jpg?expires=&sig=` | the picture of the peak |
//!
//! Everything else, and everything that goes wrong, is `application/problem+json` (RFC 9457).
//!
//! Invariants: no part of a request ever becomes part of a path on the disk; nothing is looked up for a link that this
//! device did not make.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame, SizeHint};
use tokio::io::{AsyncRead, ReadBuf};

use super::links::{Links, Medium, Refused};
use super::range::{self, Wanted};
use crate::agent::store::{ClipState, Reader, StoredClip};
use crate::base::clock::{Clock, Mono};
use crate::base::error::Chain;

/// Requests a second, in the mean, and at once.
const REQUESTS_PER_S: u32 = 50;
const REQUESTS_AT_ONCE: u32 = 100;
/// Read from the disk at once.
const PIECE_BYTES: usize = 64 * 1024;

/// What the routes stand on.
pub struct Media {
    /// Which links are good.
    pub links: Arc<Links>,
    /// Where the rows are.
    pub reader: Reader,
    /// Where the files are.
    pub state_dir: PathBuf,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

struct Shared {
    media: Media,
    /// When the requests so far would all have come, had they come evenly.
    even: Mutex<Mono>,
}

/// The routes.
pub fn routes(media: Media) -> Router {
    let shared = Arc::new(Shared { media, even: Mutex::default() });
    // One handler for all: what a path means is said in one place only.
    Router::new().fallback(answer).with_state(shared)
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if !shared.admits() {
        let retry = [(header::RETRY_AFTER, "1")];
        return (retry, problem(StatusCode::TOO_MANY_REQUESTS, "too many requests at once")).into_response();
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let allow = [(header::ALLOW, "GET, HEAD")];
        return (allow, problem(StatusCode::METHOD_NOT_ALLOWED, "there is nothing to change here")).into_response();
    }
    let Some((medium, incident)) = Medium::of(request.uri().path()) else {
        return problem(StatusCode::NOT_FOUND, "there is nothing here");
    };
    let query = request.uri().query().unwrap_or_default();
    let value = |name: &str| {
        query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)).map_or("", |(_, v)| v)
    };
    let media = &shared.media;
    let good = media.links.check(request.uri().path(), value("expires"), value("sig"), media.clock.wall());
    if let Err(refused @ (Refused::Forged | Refused::Expired)) = good {
        return problem(StatusCode::FORBIDDEN, &refused.to_string());
    }
    let looked = tokio::task::spawn_blocking({
        let shared = Arc::clone(&shared);
        move || {
            let stored = shared.media.reader.incident(incident).map_err(|e| Chain(&e).to_string())?;
            let clip = stored.and_then(|detail| detail.incident.clip);
            Ok::<_, String>(match clip {
                None => Err("this device knows no clip of that incident".to_owned()),
                Some(clip) => open(&shared.media, medium, &clip).map(|file| (file, clip)),
            })
        }
    });
    let ((file, length), clip) = match looked.await {
        Ok(Ok(Ok(found))) => found,
        Ok(Ok(Err(why))) => return problem(StatusCode::NOT_FOUND, &why),
        Ok(Err(why)) => {
            log::warn!("http: {why}");
            return problem(StatusCode::SERVICE_UNAVAILABLE, "the device's database does not answer");
        }
        Err(_) => return problem(StatusCode::INTERNAL_SERVER_ERROR, "the device could not look"),
    };
    respond(medium, &clip, (file, length), request.headers())
}

/// The file of what a clip has, and its length, or why there is none.
fn open(media: &Media, medium: Medium, clip: &StoredClip) -> Result<(File, u64), String> {
    match clip.state {
        ClipState::Done => {}
        ClipState::Planned | ClipState::Recording => return Err("the clip is still being made".into()),
        ClipState::Lost | ClipState::Expired => {
            return Err(format!("there is none: {}", clip.report.lost_because.as_deref().unwrap_or("it was lost")));
        }
    }
    let path = match medium {
        Medium::Clip => &clip.report.path,
        Medium::Peak => &clip.report.peak_jpeg_path,
    };
    let path = path.as_ref().ok_or("there is no picture of that incident's peak")?;
    let opened = File::open(media.state_dir.join(path)).and_then(|file| Ok((file.metadata()?.len(), file)));
    match opened {
        Ok((length, file)) => Ok((file, length)),
        Err(e) => {
            log::warn!("http: {path}: {e}");
            Err("its file is gone".into())
        }
    }
}

fn respond(medium: Medium, clip: &StoredClip, (mut file, length): (File, u64), headers: &HeaderMap) -> Response {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let etag = match (medium, &clip.report.sha256) {
        (Medium::Clip, Some(sha256)) => Some(format!("\"{sha256}\"")),
        _ => None,
    };
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, if medium == Medium::Clip { "video/mp4" } else { "image/jpeg" })
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CACHE_CONTROL, "private, no-store")
        .header("x-content-type-options", "nosniff");
    if let Some(etag) = &etag {
        response = response.header(header::ETAG, etag);
    }
    // A range of another file than the one that was meant is no use.
    let meant = text(header::IF_RANGE).is_none_or(|tag| Some(tag) == etag.as_deref());
    let wanted = text(header::RANGE).filter(|_| meant).map_or(Wanted::All, |range| range::wanted(range, length));
    let (from, count) = match wanted {
        Wanted::All => (0, length),
        Wanted::Part { from, to } => {
            let range = format!("bytes {from}-{to}/{length}");
            response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
            (from, to - from + 1)
        }
        Wanted::Nothing => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
            let why = format!("the file has {length} bytes");
            return (range, problem(StatusCode::RANGE_NOT_SATISFIABLE, &why)).into_response();
        }
    };
    if let Err(e) = file.seek(SeekFrom::Start(from)) {
        log::warn!("http: {e}");
        return problem(StatusCode::INTERNAL_SERVER_ERROR, "its file cannot be read");
    }
    let body = Body::new(FileBody { file: tokio::fs::File::from_std(file), left: count });
    let response = response.header(header::CONTENT_LENGTH, count).body(body);
    response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

impl Shared {
    /// Whether another request may be looked at now.
    fn admits(&self) -> bool {
        let now = self.media.clock.now();
        let mut even = self.even.lock().expect("nothing panics under this lock");
        let each = Duration::from_secs(1) / REQUESTS_PER_S;
        if even.since(now) >= each * REQUESTS_AT_ONCE {
            return false;
        }
        *even = (*even).max(now) + each;
        true
    }
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let body = serde_json::json!({ "title": title, "status": status.as_u16(), "detail": detail });
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

/// A part of a file, read as it is taken.
struct FileBody {
    file: tokio::fs::File,
    left: u64,
}

impl hyper::body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(this.left).unwrap_or(PIECE_BYTES))];
        let mut buffer = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut this.file).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        if read == 0 {
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        }
        piece.truncate(read);
        this.left -= read as u64;
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
