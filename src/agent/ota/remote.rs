//! The way to the repository: a web server, or a directory (a USB stick). Whatever answers there is not trusted: what comes
//! is bounded in size and in time, and begins where an earlier try left off.
//!
//! What does not belong here: what the bytes mean (`trust`), where they go (`fetch`).

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use url::Url;

use crate::agent::config::Ota;
use crate::base::clock::{Clock, Mono};
use crate::base::pace::Bucket;

/// A server that does not answer within this is not there.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// What comes is held against the least rate over so long.
const SLOW_OVER: Duration = Duration::from_secs(30);
/// The least rate. One that is limited to less has a quarter of its limit as the least.
const SLOWEST_BYTES_PER_S: u64 = 1_000;
/// A piece of a file that is read from a directory.
const PIECE_BYTES: usize = 64 * 1024;

/// Why nothing came, or not all.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The repository has no such file.
    #[error("{url} is not there")]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// More came than may come.
    #[error("{url} has more than {most_bytes} bytes")]
    Endless {
        /// What was asked for.
        url: String,
        /// What may come.
        most_bytes: u64,
    },
    /// It came so slowly that it might never end.
    #[error("{url} comes at less than {least_bytes_per_s} bytes a second")]
    Slow {
        /// What was asked for.
        url: String,
        /// The least.
        least_bytes_per_s: u64,
    },
    /// The server, the network or the disk.
    #[error("{url}: {what}")]
    Away {
        /// What was asked for.
        url: String,
        /// In its words.
        what: String,
    },
    /// Certificates that cannot be used.
    #[error("no connection can be made with the certificates of [ota]: {0}")]
    Certificates(String),
}

/// See the module's doc. Cheap to clone.
#[derive(Clone)]
pub struct Remote {
    base: Url,
    client: Option<reqwest::Client>,
    limit: Option<Arc<Mutex<Bucket>>>,
    least_bytes_per_s: u64,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({})", self.base)
    }
}

/// Bytes as they come.
pub struct Body {
    url: String,
    source: Source,
    /// The first byte's place in the file.
    from: u64,
    remote: Remote,
    watch: Watch,
}

enum Source {
    Web(reqwest::Response),
    File(tokio::fs::File),
}

impl Remote {
    /// The repository of the config.
    pub fn of(ota: &Ota, clock: Arc<dyn Clock>) -> Result<Remote, RemoteError> {
        let certificates = |e: &dyn std::fmt::Display| RemoteError::Certificates(e.to_string());
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .read_timeout(SLOW_OVER)
            // A repository is where the config says, and nowhere else.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = &ota.ca_pem {
            let roots = reqwest::Certificate::from_pem_bundle(pem).map_err(|e| certificates(&e))?;
            builder = builder.tls_certs_only(roots);
        }
        if let Some(files) = &ota.client {
            let (cert, key) = files.read().map_err(|e| certificates(&e))?;
            let both = [&cert[..], &key.0[..]].join(&b'\n');
            builder = builder.identity(reqwest::Identity::from_pem(&both).map_err(|e| certificates(&e))?);
        }
        let client = builder.build().map_err(|e| certificates(&e))?;
        let base = Url::parse(&format!("{}/", ota.repository)).map_err(|e| certificates(&e))?;
        let client = (base.scheme() != "file").then_some(client);
        Ok(Remote::new(base, client, ota.limit_bytes_per_s, clock))
    }

    /// A directory: a USB stick.
    pub fn directory(dir: &std::path::Path, clock: Arc<dyn Clock>) -> Result<Remote, RemoteError> {
        let away = |what: &str| RemoteError::Away { url: dir.display().to_string(), what: what.into() };
        let dir = std::path::absolute(dir).map_err(|e| away(&e.to_string()))?;
        let base = Url::from_directory_path(dir).map_err(|()| away("is no path of a directory"))?;
        Ok(Remote::new(base, None, None, clock))
    }

    fn new(base: Url, client: Option<reqwest::Client>, limit: Option<u64>, clock: Arc<dyn Clock>) -> Remote {
        let least = limit.map_or(SLOWEST_BYTES_PER_S, |l| SLOWEST_BYTES_PER_S.min(l / 4));
        let limit = limit.map(|l| Arc::new(Mutex::new(Bucket::new(l))));
        Remote { base, client, limit, least_bytes_per_s: least, clock }
    }

    /// The repository, for people.
    pub fn name(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// A place below the repository.
    pub fn place(&self, path: &str) -> Url {
        self.base.join(path).expect("paths of ours are relative and plain")
    }

    /// A whole file of at most `most_bytes`.
    pub async fn whole(&self, url: &Url, most_bytes: u64) -> Result<Vec<u8>, RemoteError> {
        let mut body = self.open(url, 0).await?;
        let mut all = Vec::new();
        while let Some(piece) = body.next().await? {
            if (all.len() + piece.len()) as u64 > most_bytes {
                return Err(RemoteError::Endless { url: url.to_string(), most_bytes });
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// A file's bytes from `from` on, if the other side can begin there; [`Body::from`] says where it does.
    pub async fn open(&self, url: &Url, from: u64) -> Result<Body, RemoteError> {
        let away = |what: String| RemoteError::Away { url: url.to_string(), what };
        let (source, from) = match &self.client {
            None => {
                let path: PathBuf = url.to_file_path().map_err(|()| away("is no file".into()))?;
                let mut file = tokio::fs::File::open(&path).await.map_err(|e| match e.kind() {
                    io::ErrorKind::NotFound => RemoteError::NotFound { url: url.to_string() },
                    _ => away(e.to_string()),
                })?;
                file.seek(io::SeekFrom::Start(from)).await.map_err(|e| away(e.to_string()))?;
                (Source::File(file), from)
            }
            Some(client) => {
                let mut request = client.get(url.clone());
                if from > 0 {
                    request = request.header(reqwest::header::RANGE, format!("bytes={from}-"));
                }
                let response = request.send().await.map_err(|e| Remote::of_web(url, &e))?;
                match response.status().as_u16() {
                    200 => (Source::Web(response), 0),
                    206 if starts_at(&response) == Some(from) => (Source::Web(response), from),
                    403 | 404 | 410 => return Err(RemoteError::NotFound { url: url.to_string() }),
                    // What is there is shorter than what we have: from the beginning.
                    416 if from > 0 => return Box::pin(self.open(url, 0)).await,
                    status => return Err(away(format!("the server answered {status}"))),
                }
            }
        };
        let watch = Watch::new(self.clock.now(), self.least_bytes_per_s);
        Ok(Body { url: url.to_string(), source, from, remote: self.clone(), watch })
    }

    fn of_web(url: &Url, e: &reqwest::Error) -> RemoteError {
        let url = url.to_string();
        let mut what = String::new();
        let mut source = std::error::Error::source(e);
        while let Some(e) = source {
            what = e.to_string();
            source = e.source();
        }
        RemoteError::Away { url, what: if what.is_empty() { e.to_string() } else { what } }
    }
}

/// Where the body of a 206 begins.
fn starts_at(response: &reqwest::Response) -> Option<u64> {
    let range = response.headers().get(reqwest::header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

impl Body {
    /// Where it begins in the file.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The next piece; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RemoteError> {
        let away = |what: String| RemoteError::Away { url: self.url.clone(), what };
        let piece = match &mut self.source {
            Source::Web(response) => response.chunk().await.map_err(|e| {
                let url = Url::parse(&self.url).expect("it was one");
                Remote::of_web(&url, &e)
            })?,
            Source::File(file) => {
                let mut piece = vec![0; PIECE_BYTES];
                let n = file.read(&mut piece).await.map_err(|e| away(e.to_string()))?;
                piece.truncate(n);
                (n > 0).then(|| Bytes::from(piece))
            }
        };
        let Some(piece) = piece else { return Ok(None) };
        if !self.watch.goes_on(self.remote.clock.now(), piece.len()) {
            let least_bytes_per_s = self.remote.least_bytes_per_s;
            return Err(RemoteError::Slow { url: self.url.clone(), least_bytes_per_s });
        }
        if let Some(limit) = &self.remote.limit {
            let now = self.remote.clock.now();
            let wait = limit.lock().expect("nothing panics under this lock").take(now, piece.len());
            tokio::time::sleep(wait).await;
            self.watch.paused(wait);
        }
        Ok(Some(piece))
    }
}

/// Whether what comes keeps the least rate, over one stretch of [`SLOW_OVER`] after the other.
#[derive(Debug)]
struct Watch {
    least_bytes_per_s: u64,
    since: Mono,
    bytes: u64,
}

impl Watch {
    fn new(now: Mono, least_bytes_per_s: u64) -> Watch {
        Watch { least_bytes_per_s, since: now, bytes: 0 }
    }

    /// That we waited ourselves is not the other side's slowness.
    fn paused(&mut self, d: Duration) {
        self.since = self.since + d;
    }

    fn goes_on(&mut self, now: Mono, bytes: usize) -> bool {
        self.bytes += bytes as u64;
        let took = now.since(self.since);
        if took < SLOW_OVER {
            return true;
        }
        let enough = self.bytes as f64 >= self.least_bytes_per_s as f64 * took.as_secs_f64();
        *self = Watch::new(now, self.least_bytes_per_s);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_found_out_and_a_pause_of_ours_is_not_held_against_the_server() {
        let at = |s: u64| Mono::from_millis(s * 1000);
        let mut watch = Watch::new(at(0), 1_000);
        assert!((1..30).all(|s| watch.goes_on(at(s), 1)), "too early to say");
        assert!(!watch.goes_on(at(31), 1), "a byte a second");
        let mut watch = Watch::new(at(0), 1_000);
        assert!((1..100).all(|s| watch.goes_on(at(s), 1_100)));
        let mut watch = Watch::new(at(0), 1_000);
        watch.paused(Duration::from_secs(60));
        assert!(watch.goes_on(at(61), 2_000));
    }
}
