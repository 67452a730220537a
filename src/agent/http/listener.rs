//! Serving routes on the network, where anybody may knock: so many connections and no more, each with bounds on what it
//! may take its time for.
//!
//! Invariants: no peer can hold a connection for longer than [`Bounds`] says, nor more of them than its share; what one
//! peer does slows no other down.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::base::stop::StopToken;

/// What peers may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Connections at once.
    pub connections: usize,
    /// Of these, from one address.
    pub from_one_address: usize,
    /// For the TLS handshake, and for a request's head.
    pub head_within: Duration,
    /// A peer that takes nothing of its answer for so long is cut off.
    pub stalled_after: Duration,
    /// For everything on one connection.
    pub lifetime: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            connections: 64,
            from_one_address: 16,
            head_within: Duration::from_secs(10),
            stalled_after: Duration::from_secs(20),
            lifetime: Duration::from_secs(1800),
        }
    }
}

/// How long to wait after the system refused a connection: it has no more descriptors, say.
const AFTER_REFUSAL: Duration = Duration::from_millis(200);

/// Serves until stopped; connections that are open then are cut.
pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, routes: Router, bounds: Bounds, stop: StopToken) {
    let guests = Guests::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.stopped() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                log::debug!("http: no connection taken: {e}");
                tokio::time::sleep(AFTER_REFUSAL).await;
                continue;
            }
        };
        // Closed at once, unanswered: an answer would cost what is short.
        let Some(guest) = guests.admit(peer.ip(), &bounds) else {
            log::debug!("http: {peer} turned away: too many connections");
            continue;
        };
        connections.spawn(attend((stream, peer), tls.clone(), routes.clone(), bounds, guest));
    }
}

async fn attend(
    (stream, peer): (TcpStream, SocketAddr),
    tls: Option<TlsAcceptor>,
    routes: Router,
    bounds: Bounds,
    _guest: Guest,
) {
    let stream = Patient { stream, stalled_after: bounds.stalled_after, waiting: None };
    let served = timeout(bounds.lifetime, async {
        match tls {
            None => talk(stream, routes, &bounds).await,
            Some(tls) => match timeout(bounds.head_within, tls.accept(stream)).await {
                Ok(Ok(stream)) => talk(stream, routes, &bounds).await,
                Ok(Err(e)) => log::debug!("http: {peer}: {e}"),
                Err(_) => log::debug!("http: {peer} did not shake hands in time"),
            },
        }
    });
    if served.await.is_err() {
        log::debug!("http: {peer} was connected for too long");
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Router, bounds: &Bounds) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_within)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    if let Err(e) = connection.await {
        log::debug!("http: a connection ended badly: {e}");
    }
}

/// Who is here.
#[derive(Clone, Default)]
struct Guests(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them, until dropped.
struct Guest(Guests, IpAddr);

impl Guests {
    fn admit(&self, from: IpAddr, bounds: &Bounds) -> Option<Guest> {
        let mut here = self.0.lock().expect("nothing panics under this lock");
        if here.values().sum::<usize>() >= bounds.connections {
            return None;
        }
        let of_this = here.entry(from).or_default();
        if *of_this >= bounds.from_one_address {
            return None;
        }
        *of_this += 1;
        Some(Guest(self.clone(), from))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut here = self.0.0.lock().expect("nothing panics under this lock");
        if let Some(of_this) = here.get_mut(&self.1) {
            *of_this -= 1;
            if *of_this == 0 {
                here.remove(&self.1);
            }
        }
    }
}

/// A stream that gives up when its peer takes nothing for too long.
struct Patient {
    stream: TcpStream,
    stalled_after: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    /// Passes on what writing said, and keeps the time while it says "not yet".
    fn timed<T>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.waiting = None;
            return wrote;
        }
        let stalled_after = self.stalled_after;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(stalled_after)));
        match waiting.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.timed(cx, wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.timed(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.timed(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::body::Body;
    use axum::routing::get;
    use hyper::body::{Bytes, Frame};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;

    /// More than what the system keeps for a connection at both its ends.
    const ANSWER_BYTES: usize = 64 << 20;
    const PATIENCE: Duration = Duration::from_secs(60);

    /// An answer of [`ANSWER_BYTES`], that tells when it is let go.
    struct Answer(usize, #[expect(dead_code, reason = "what counts is when it is dropped")] oneshot::Sender<()>);

    impl hyper::body::Body for Answer {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            let piece = self.0.min(64 * 1024);
            self.0 -= piece;
            Poll::Ready((piece > 0).then(|| Ok(Frame::data(vec![0; piece].into()))))
        }
    }

    /// A server with one large answer on it, when that is let go, and where it is.
    async fn served(bounds: Bounds, stop: &StopToken) -> (SocketAddr, oneshot::Receiver<()>) {
        let (alive, let_go) = oneshot::channel();
        let alive = Arc::new(Mutex::new(Some(alive)));
        let large = move || {
            let alive = alive.lock().expect("no panic").take().expect("asked for once");
            async move { Body::new(Answer(ANSWER_BYTES, alive)) }
        };
        let routes = Router::new().route("/large", get(large)).route("/small", get(|| async { "small" }));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let at = listener.local_addr().expect("bound");
        tokio::spawn(serve(listener, None, routes, bounds, stop.clone()));
        (at, let_go)
    }

    async fn ask(at: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(at).await.expect("listening");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("taken");
        stream
    }

    #[tokio::test]
    async fn who_takes_nothing_of_an_answer_is_cut_off_and_holds_up_nobody() {
        let bounds = Bounds { stalled_after: Duration::from_millis(300), ..Bounds::default() };
        let stop = StopToken::new();
        let (at, let_go) = served(bounds, &stop).await;
        let mut stalled = ask(at, "/large").await;
        let mut small = String::new();
        ask(at, "/small").await.read_to_string(&mut small).await.expect("an answer beside it");
        assert!(small.ends_with("small"), "{small}");
        timeout(PATIENCE, let_go).await.expect("cut off").expect_err("dropped, nothing is sent");
        let mut got = Vec::new();
        let end = timeout(PATIENCE, stalled.read_to_end(&mut got)).await.expect("the connection is closed");
        assert!(got.len() < ANSWER_BYTES, "{} {end:?}", got.len());
    }

    #[tokio::test]
    async fn who_is_slow_gets_all_of_an_answer() {
        let bounds = Bounds { stalled_after: Duration::from_secs(3), ..Bounds::default() };
        let stop = StopToken::new();
        let (at, _let_go) = served(bounds, &stop).await;
        let mut slow = ask(at, "/large").await;
        // 64 rests of 80 ms: longer than the bound, had the bound been on the whole.
        let (mut got, mut piece) = (0, vec![0; ANSWER_BYTES / 64]);
        while let Ok(read) = slow.read_exact(&mut piece).await {
            got += read;
            tokio::time::sleep(Duration::from_millis(80)).await;
        }
        assert_eq!(got, ANSWER_BYTES);
    }

    #[test]
    fn one_address_gets_its_share_and_no_more() {
        let bounds = Bounds { connections: 3, from_one_address: 2, ..Bounds::default() };
        let guests = Guests::default();
        let [a, b] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        let first = guests.admit(a, &bounds).expect("room");
        let _second = guests.admit(a, &bounds).expect("room");
        assert!(guests.admit(a, &bounds).is_none());
        let _third = guests.admit(b, &bounds).expect("room");
        assert!(guests.admit(b, &bounds).is_none(), "all are taken");
        drop(first);
        assert!(guests.admit(b, &bounds).is_some());
        drop((_second, _third));
        assert!(guests.0.lock().expect("no panic").len() <= 1, "who has left is forgotten");
    }
}
