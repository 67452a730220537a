//! The HTTP under `object_store`: one client for all requests, whose bodies go at the configured rate, and which gives up
//! when a server neither takes nor says anything for too long. A whole request has no time limit: over a slow line a
//! part may take many minutes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};

use super::UploadCounters;
use crate::base::clock::Clock;
use crate::base::pace::Bucket;

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
/// How often it is looked whether a request gets on.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A body without a limit goes in pieces of this, so that it can be seen to get on.
const PIECE_BYTES: usize = 65_536;

/// See the module's doc. Clones share the connections and the limit.
#[derive(Clone)]
pub(super) struct Line {
    client: reqwest::Client,
    /// What each request carries besides its own headers.
    authorization: Option<reqwest::header::HeaderValue>,
    bucket: Option<Arc<Mutex<Bucket>>>,
    stalled_after: Duration,
    counters: Arc<UploadCounters>,
    clock: Arc<dyn Clock>,
}

/// What a line is made of.
pub(super) struct Wire<'a> {
    pub ca_pem: Option<&'a [u8]>,
    pub authorization: Option<reqwest::header::HeaderValue>,
    pub limit_bytes_per_s: Option<u64>,
    /// No proxy of the environment is asked: what it could reach is not this machine.
    pub loopback: bool,
    pub stalled_after: Duration,
    pub counters: Arc<UploadCounters>,
    pub clock: Arc<dyn Clock>,
}

impl Line {
    pub(super) fn new(wire: Wire<'_>) -> Result<Line, reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("vedette/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_WITHIN)
            // To be led elsewhere with a clip and a password is nothing that a configured server should do.
            .redirect(reqwest::redirect::Policy::none())
            .http1_only();
        if let Some(pem) = wire.ca_pem {
            builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem)?);
        }
        if wire.loopback {
            builder = builder.no_proxy();
        }
        Ok(Line {
            client: builder.build()?,
            authorization: wire.authorization,
            bucket: wire.limit_bytes_per_s.map(|rate| Arc::new(Mutex::new(Bucket::new(rate)))),
            stalled_after: wire.stalled_after,
            counters: wire.counters,
            clock: wire.clock,
        })
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

impl HttpConnector for Line {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

/// A server that neither took nor said anything.
#[derive(Debug, thiserror::Error)]
#[error("the server took nothing and said nothing for {} s", .0.as_secs())]
struct Stalled(Duration);

#[async_trait]
impl HttpService for Line {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let broken = |e: reqwest::Error| {
            let kind = match () {
                () if e.is_timeout() => HttpErrorKind::Timeout,
                () if e.is_connect() => HttpErrorKind::Connect,
                () => HttpErrorKind::Request,
            };
            // The URL stands in the message around it.
            HttpError::new(kind, e.without_url())
        };
        let url = parts.uri.to_string();
        let url = reqwest::Url::parse(&url).map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let mut outgoing = reqwest::Request::new(parts.method, url);
        *outgoing.headers_mut() = parts.headers;
        if let Some(authorization) = &self.authorization {
            outgoing.headers_mut().insert(reqwest::header::AUTHORIZATION, authorization.clone());
        }
        let moved_on = Arc::new(AtomicU64::new(self.clock.now().as_millis()));
        *outgoing.body_mut() = Some(reqwest::Body::wrap(Paced::new(self, body, Arc::clone(&moved_on)).await?));

        let answer = self.client.execute(outgoing);
        tokio::pin!(answer);
        let response = loop {
            tokio::select! {
                answer = &mut answer => break answer.map_err(broken)?,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let still = self.clock.now().as_millis().saturating_sub(moved_on.load(Ordering::Relaxed));
                    if Duration::from_millis(still) > self.stalled_after {
                        return Err(HttpError::new(HttpErrorKind::Timeout, Stalled(self.stalled_after)));
                    }
                }
            }
        };
        let (parts, body) = hyper::Response::<reqwest::Body>::from(response).into_parts();
        // Answers are a few lines; one that never ends is none.
        let within = tokio::time::timeout(self.stalled_after, http_body_util::Limited::new(body, 1 << 20).collect());
        let body = match within.await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(e)) => return Err(HttpError::new(HttpErrorKind::Interrupted, std::io::Error::other(e))),
            Err(_) => return Err(HttpError::new(HttpErrorKind::Timeout, Stalled(self.stalled_after))),
        };
        let never = |never: std::convert::Infallible| match never {};
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(http_body_util::Full::new(body).map_err(never))))
    }
}

/// A body that goes at the line's rate.
struct Paced {
    frames: VecDeque<Bytes>,
    left: u64,
    piece_bytes: usize,
    /// Waits for its time.
    next: Option<(Bytes, Pin<Box<tokio::time::Sleep>>)>,
    bucket: Option<Arc<Mutex<Bucket>>>,
    moved_on: Arc<AtomicU64>,
    counters: Arc<UploadCounters>,
    clock: Arc<dyn Clock>,
}

impl Paced {
    async fn new(
        line: &Line,
        body: impl Body<Data = Bytes, Error = HttpError>,
        moved_on: Arc<AtomicU64>,
    ) -> Result<Paced, HttpError> {
        let mut frames = VecDeque::new();
        let mut body = std::pin::pin!(body);
        // It is in memory, and gives all it has at once.
        while let Some(frame) = body.frame().await {
            frames.extend(frame?.into_data());
        }
        let piece = |bucket: &Arc<Mutex<Bucket>>| bucket.lock().expect("nothing panics under this lock").piece_bytes();
        Ok(Paced {
            left: frames.iter().map(|f| f.len() as u64).sum(),
            frames,
            piece_bytes: line.bucket.as_ref().map_or(PIECE_BYTES, piece),
            next: None,
            bucket: line.bucket.clone(),
            moved_on,
            counters: Arc::clone(&line.counters),
            clock: Arc::clone(&line.clock),
        })
    }

    fn piece(&mut self) -> Option<Bytes> {
        let frame = self.frames.front_mut()?;
        let piece = frame.split_to(frame.len().min(self.piece_bytes));
        if frame.is_empty() {
            self.frames.pop_front();
        }
        Some(piece)
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        // Whoever asks has taken what it was given before.
        this.moved_on.store(this.clock.now().as_millis(), Ordering::Relaxed);
        if this.next.is_none() {
            let Some(piece) = this.piece() else { return Poll::Ready(None) };
            let take = |bucket: &Arc<Mutex<Bucket>>| {
                bucket.lock().expect("nothing panics under this lock").take(this.clock.now(), piece.len())
            };
            let wait = this.bucket.as_ref().map_or(Duration::ZERO, take);
            this.next = Some((piece, Box::pin(tokio::time::sleep(wait))));
        }
        if let Some((_, wait)) = &mut this.next {
            ready!(wait.as_mut().poll(cx));
        }
        let piece = this.next.take().map(|(piece, _)| piece);
        let bytes = piece.as_ref().map_or(0, Bytes::len) as u64;
        this.left -= bytes;
        this.counters.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
