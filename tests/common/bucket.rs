//! A server for clips that is real on the wire: S3 (signature version 4 verified, PUT, multipart, HEAD, DELETE), or any
//! web server that takes PUT with a password. Keeps what it was given and a log of what it was asked; can be told to
//! hold a part, or to fail.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use aws_lc_rs::hmac;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};
use vedette::base::clock::{Clock, Mono, SystemClock};
use vedette::base::digest;

use super::pki::Pki;

pub const ACCESS_KEY: &str = "AKIAVEDETTE";
pub const SECRET_KEY: &str = "correct-horse-7731";

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub status: u16,
    /// When its head had come, and when its body had.
    pub from: Mono,
    pub to: Mono,
}

impl Asked {
    /// Number of the part that it brought, if it brought one.
    pub fn part(&self) -> Option<u32> {
        self.query.get("partNumber").and_then(|n| n.parse().ok()).filter(|_| self.method == "PUT")
    }
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    log: Vec<Asked>,
    /// Heads that came, answered or not: method and part number.
    heads: Vec<(String, Option<u32>)>,
    /// The next so many are answered with this.
    failures: (u32, u16),
    /// This part is not answered until it is let go.
    held: Option<u32>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    clock: SystemClock,
    web: bool,
}

/// The server. Its threads end with the test's process.
pub struct Bucket {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Bucket {
    /// An S3 service.
    pub fn s3() -> Bucket {
        Bucket::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"), false, None)
    }

    /// A web server that takes PUT from user `device`.
    pub fn web() -> Bucket {
        Bucket::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"), true, None)
    }

    /// The same behind TLS, as the authority's `server`.
    pub fn web_over_tls(pki: &Pki) -> Bucket {
        let (cert, key) = (pki.read("server.crt"), pki.read("server.key"));
        let chain = CertificateDer::pem_slice_iter(&cert).collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(&key).expect("PEM");
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("known versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        Bucket::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"), true, Some(Arc::new(config)))
    }

    /// The same on a port that was chosen before.
    pub fn on(listener: TcpListener, web: bool, tls: Option<Arc<ServerConfig>>) -> Bucket {
        let address = listener.local_addr().expect("bound");
        let shared =
            Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), clock: SystemClock::new(), web });
        std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming().flatten() {
                    let (shared, tls) = (Arc::clone(&shared), tls.clone());
                    std::thread::spawn(move || match tls {
                        None => shared.serve(stream),
                        Some(tls) => shared.serve(StreamOwned::new(ServerConnection::new(tls).ok()?, stream)),
                    });
                }
            }
        });
        Bucket { address, shared }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn log(&self) -> Vec<Asked> {
        self.lock().log.clone()
    }

    /// Whether the head of this part's request has come.
    pub fn part_has_begun(&self, part: u32) -> bool {
        self.lock().heads.iter().any(|(method, n)| method == "PUT" && *n == Some(part))
    }

    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.lock().objects.get(key).cloned()
    }

    pub fn keys(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    /// Uploads that were begun and neither completed nor aborted.
    pub fn unfinished(&self) -> usize {
        self.lock().uploads.len()
    }

    /// Lets go of everything that was not completed, as a life-cycle rule does.
    pub fn expire_uploads(&self) {
        self.lock().uploads.clear();
    }

    pub fn fail(&self, times: u32, status: u16) {
        self.lock().failures = (times, status);
    }

    pub fn hold(&self, part: u32) {
        self.lock().held = Some(part);
    }

    pub fn let_go(&self) {
        self.lock().held = None;
        self.shared.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no panic under it")
    }
}

struct Request {
    method: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Shared {
    fn serve(&self, stream: impl Read + Write) -> Option<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
            let mut words = line.split_whitespace();
            let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
            let mut headers = BTreeMap::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok()?;
                match line.trim_end().split_once(':') {
                    Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
                    None => break,
                };
            }
            let (path, query) = split(&target);
            let part = query.get("partNumber").and_then(|n| n.parse().ok());
            let from = self.clock.now();
            self.state.lock().ok()?.heads.push((method.clone(), part));
            let length = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            let to = self.clock.now();
            {
                let mut state = self.state.lock().ok()?;
                while part.is_some() && state.held == part {
                    state = self.changed.wait(state).ok()?;
                }
            }
            let request = Request { method, headers, body };
            let (status, head, text) = self.answer(&request, &path, &query);
            let asked_for = self.state.lock().ok()?.objects.get(&path).cloned();
            let asked = Asked { method: request.method.clone(), path, query, status, from, to };
            // Said before it is answered: who has the answer finds it here.
            self.state.lock().ok()?.log.push(asked);
            let length = if head.contains("content-length") {
                String::new()
            } else {
                format!("content-length: {}\r\n", text.len())
            };
            // An object's bytes need not be text.
            let body = match request.method.as_str() {
                "HEAD" => Vec::new(),
                "GET" if status == 200 && text.is_empty() => asked_for.unwrap_or_default(),
                _ => text.into_bytes(),
            };
            write!(reader.get_mut(), "HTTP/1.1 {status} X\r\n{head}{length}\r\n").ok()?;
            reader.get_mut().write_all(&body).ok()?;
            reader.get_mut().flush().ok()?;
        }
    }

    /// Status, headers, body.
    fn answer(&self, r: &Request, path: &str, query: &BTreeMap<String, String>) -> (u16, String, String) {
        let error = |status: u16, code: &str| (status, String::new(), format!("<Error><Code>{code}</Code></Error>"));
        let mut state = self.state.lock().expect("no panic under it");
        if state.failures.0 > 0 {
            state.failures.0 -= 1;
            return error(state.failures.1, "InternalError");
        }
        if self.web {
            // "device:correct-horse-7731"
            if r.headers.get("authorization").map(String::as_str) != Some("Basic ZGV2aWNlOmNvcnJlY3QtaG9yc2UtNzczMQ==")
            {
                return error(401, "Unauthorized");
            }
        } else if let Err(code) = verify(r, path, query) {
            return error(403, code);
        }
        let etag = |bytes: &[u8]| format!("\"{}\"", &digest::of_bytes(bytes)[..32]);
        match (r.method.as_str(), query.get("uploadId").cloned()) {
            ("POST", None) if query.contains_key("uploads") => {
                let id = format!("upload-{}", state.uploads.len() + state.log.len());
                state.uploads.insert(id.clone(), BTreeMap::new());
                let body =
                    format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
                (200, String::new(), body)
            }
            ("PUT", Some(id)) => {
                let part = query.get("partNumber").and_then(|n| n.parse().ok()).unwrap_or(0);
                let Some(parts) = state.uploads.get_mut(&id) else { return error(404, "NoSuchUpload") };
                parts.insert(part, r.body.clone());
                (200, format!("etag: {}\r\n", etag(&r.body)), String::new())
            }
            ("POST", Some(id)) => {
                let Some(parts) = state.uploads.get(&id) else { return error(404, "NoSuchUpload") };
                let listed = String::from_utf8_lossy(&r.body).into_owned();
                let last = parts.len();
                for (n, part) in parts.values().enumerate() {
                    // What S3 demands of a part: that its ETag is listed, and 5 MiB of all but the last.
                    if !listed.contains(etag(part).trim_matches('"')) {
                        return error(400, "InvalidPart");
                    }
                    if n + 1 < last && part.len() < 5 << 20 {
                        return error(400, "EntityTooSmall");
                    }
                }
                let whole = parts.values().map(Vec::as_slice).collect::<Vec<_>>().concat();
                state.uploads.remove(&id);
                state.objects.insert(path.to_owned(), whole);
                let body = "<CompleteMultipartUploadResult><ETag>\"x\"</ETag></CompleteMultipartUploadResult>";
                (200, String::new(), body.to_owned())
            }
            ("DELETE", Some(id)) => match state.uploads.remove(&id) {
                Some(_) => (204, String::new(), String::new()),
                None => error(404, "NoSuchUpload"),
            },
            // What S3 calls conditional writes.
            ("PUT", None) if r.headers.contains_key("if-none-match") && state.objects.contains_key(path) => {
                error(412, "PreconditionFailed")
            }
            ("PUT", None)
                if r.headers
                    .get("if-match")
                    .is_some_and(|tag| state.objects.get(path).is_none_or(|bytes| etag(bytes) != *tag)) =>
            {
                error(412, "PreconditionFailed")
            }
            ("PUT", None) => {
                let head = format!("etag: {}\r\n", etag(&r.body));
                state.objects.insert(path.to_owned(), r.body.clone());
                (200, head, String::new())
            }
            ("GET", None) if query.contains_key("list-type") => {
                let below = query.get("prefix").map(|p| p.replace("%2F", "/")).unwrap_or_default();
                let within = format!("{}/{below}", path.trim_end_matches('/'));
                let found = state.objects.iter().filter(|(key, _)| key.starts_with(&within));
                let row = |(key, bytes): (&String, &Vec<u8>)| {
                    let key = &key[path.trim_end_matches('/').len() + 1..];
                    let (size, tag) = (bytes.len(), etag(bytes).trim_matches('"').to_owned());
                    format!(
                        "<Contents><Key>{key}</Key><LastModified>2026-11-22T08:00:00.000Z</LastModified>\
                         <ETag>{tag}</ETag><Size>{size}</Size></Contents>"
                    )
                };
                let rows: String = found.map(row).collect();
                let body = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>");
                (200, String::new(), body)
            }
            ("POST", None) if query.contains_key("delete") => {
                let listed = String::from_utf8_lossy(&r.body).into_owned();
                let mut gone = String::new();
                for key in listed.split("<Key>").skip(1).filter_map(|k| k.split("</Key>").next()) {
                    state.objects.remove(&format!("{}/{key}", path.trim_end_matches('/')));
                    gone += &format!("<Deleted><Key>{key}</Key></Deleted>");
                }
                (200, String::new(), format!("<DeleteResult>{gone}</DeleteResult>"))
            }
            ("HEAD" | "GET", None) => match state.objects.get(path) {
                Some(bytes) => {
                    let length = bytes.len();
                    let date = "last-modified: Sun, 22 Nov 2026 08:00:00 GMT\r\n";
                    (200, format!("content-length: {length}\r\n{date}etag: {}\r\n", etag(bytes)), String::new())
                }
                None => error(404, "NoSuchKey"),
            },
            _ => error(405, "MethodNotAllowed"),
        }
    }
}

fn split(target: &str) -> (String, BTreeMap<String, String>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter(|p| !p.is_empty());
    let pair = |p: &str| {
        let (k, v) = p.split_once('=').unwrap_or((p, ""));
        (k.to_owned(), v.to_owned())
    };
    (path.to_owned(), pairs.map(pair).collect())
}

/// AWS Signature Version 4, as its specification computes it.
fn verify(r: &Request, path: &str, query: &BTreeMap<String, String>) -> Result<(), &'static str> {
    let authorization = r.headers.get("authorization").ok_or("AccessDenied")?;
    let fields: BTreeMap<&str, &str> = authorization
        .trim_start_matches("AWS4-HMAC-SHA256 ")
        .split(',')
        .filter_map(|f| f.trim().split_once('='))
        .collect();
    let (credential, signed) = (fields.get("Credential").ok_or("AccessDenied")?, fields["SignedHeaders"]);
    let (key, scope) = credential.split_once('/').ok_or("AccessDenied")?;
    if key != ACCESS_KEY {
        return Err("InvalidAccessKeyId");
    }
    let payload = r.headers.get("x-amz-content-sha256").ok_or("AccessDenied")?;
    if payload != "UNSIGNED-PAYLOAD" && *payload != digest::of_bytes(&r.body) {
        return Err("XAmzContentSHA256Mismatch");
    }
    let queries: Vec<String> = query.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let headers: String = signed.split(';').map(|h| format!("{h}:{}\n", r.headers.get(h).map_or("", |v| v))).collect();
    let request = format!("{}\n{path}\n{}\n{headers}\n{signed}\n{payload}", r.method, queries.join("&"));
    let date = r.headers.get("x-amz-date").ok_or("AccessDenied")?;
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", digest::of_bytes(request.as_bytes()));
    let mac =
        |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec();
    let key = scope.split('/').fold(format!("AWS4{SECRET_KEY}").into_bytes(), |key, step| mac(&key, step));
    let signature: String = mac(&key, &to_sign).iter().map(|b| format!("{b:02x}")).collect();
    if fields.get("Signature") == Some(&signature.as_str()) { Ok(()) } else { Err("SignatureDoesNotMatch") }
}
