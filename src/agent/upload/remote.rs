//! The server that clips go to, through `object_store`, and what its answers mean for us.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::http::{HttpBuilder, HttpStore};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, ClientOptions, Error, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions,
    PutPayload, RetryConfig,
};

use super::UploadCounters;
use super::line::{Line, Wire};
use super::plan::{Pacing, Trouble};
use crate::agent::config::{Credentials, Upload, UploadTarget};
use crate::base::clock::Clock;
use crate::base::error::Chain;

/// A file that is PUT as a whole is held in memory for as long.
const LARGEST_WHOLE_BYTES: u64 = 512_000_000;

/// What the server, or the way to it, said.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct RemoteError {
    what: String,
    pub(super) trouble: Trouble,
    /// The server knows nothing of the upload or of the object.
    pub(super) unknown: bool,
}

impl RemoteError {
    pub(super) fn new(trouble: Trouble, what: impl Into<String>) -> Self {
        RemoteError { what: what.into(), trouble, unknown: false }
    }

    fn of(operation: &str, e: &Error) -> Self {
        let said = causes(e);
        let (trouble, hint) = match e {
            _ if said.contains("RequestTimeTooSkewed") => (Trouble::Refused, ": is the device's clock right?"),
            Error::Unauthenticated { .. } | Error::PermissionDenied { .. } => {
                (Trouble::Refused, ": check upload.credentials_file, and what they may do there")
            }
            Error::NotFound { .. } if said.contains("NoSuchBucket") => {
                (Trouble::Refused, ": make the bucket, or correct upload.url")
            }
            _ => (Trouble::Away, ""),
        };
        let unknown = matches!(e, Error::NotFound { .. }) && !said.contains("NoSuchBucket");
        let short: String = said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(600).collect();
        RemoteError { what: format!("could not {operation}{hint}: {short}"), trouble, unknown }
    }
}

/// See the module's doc.
pub(super) struct Remote {
    kind: Kind,
    part_bytes: usize,
}

enum Kind {
    S3 { store: Box<AmazonS3>, bucket: String, prefix: String },
    Http { store: Box<HttpStore>, url: String },
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::S3 { bucket, prefix, .. } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Kind::S3 { bucket, prefix, .. } => write!(f, "s3://{bucket}/{prefix}"),
            Kind::Http { url, .. } => f.write_str(url),
        }
    }
}

impl Remote {
    pub(super) fn new(
        upload: &Upload,
        pacing: &Pacing,
        counters: &Arc<UploadCounters>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Remote, RemoteError> {
        let line = |loopback, authorization| {
            Line::new(Wire {
                ca_pem: upload.ca_pem.as_deref(),
                authorization,
                limit_bytes_per_s: upload.limit_bytes_per_s,
                loopback,
                stalled_after: pacing.stalled_after,
                counters: Arc::clone(counters),
                clock: Arc::clone(clock),
            })
            .map_err(|e| RemoteError::new(Trouble::Refused, format!("no HTTP client can be made: {}", Chain(&e))))
        };
        let unfit = |e: Error| RemoteError::new(Trouble::Refused, format!("[upload] cannot be used: {}", Chain(&e)));
        // Backing off is the planner's: it knows of the other clips, and that a part need not be sent twice.
        let retry = RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() };
        let kind = match &upload.target {
            UploadTarget::S3 { bucket, prefix, endpoint, region } => {
                let line = line(endpoint.as_deref().is_some_and(is_loopback), None)?;
                let mut builder = AmazonS3Builder::new()
                    .with_bucket_name(bucket)
                    .with_region(region)
                    .with_retry(retry)
                    .with_client_options(ClientOptions::new().with_allow_http(true))
                    .with_http_connector(line);
                if let Some(endpoint) = endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                if let Some(Credentials { user, password }) = &upload.credentials {
                    builder = builder.with_access_key_id(user).with_secret_access_key(password);
                }
                let store = Box::new(builder.build().map_err(unfit)?);
                Kind::S3 { store, bucket: bucket.clone(), prefix: prefix.clone() }
            }
            UploadTarget::Http { url } => {
                let basic = upload.credentials.as_ref().map(|Credentials { user, password }| {
                    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                    let mut value = reqwest::header::HeaderValue::try_from(format!("Basic {encoded}"))
                        .expect("base64 is made of what a header may hold");
                    value.set_sensitive(true);
                    value
                });
                let store = HttpBuilder::new()
                    .with_url(url)
                    .with_retry(retry)
                    .with_client_options(ClientOptions::new().with_allow_http(true))
                    .with_http_connector(line(is_loopback(url), basic)?)
                    .build()
                    .map_err(unfit)?;
                Kind::Http { store: Box::new(store), url: url.clone() }
            }
        };
        Ok(Remote { kind, part_bytes: upload.part_bytes })
    }

    /// The object's name for a file with this name below the device.
    pub(super) fn key(&self, below: &str) -> Key {
        match &self.kind {
            Kind::S3 { prefix, .. } => Key::from(format!("{prefix}/{below}")),
            Kind::Http { .. } => Key::from(below),
        }
    }

    /// Where that is, for those who want it.
    pub(super) fn url(&self, key: &Key) -> String {
        match &self.kind {
            Kind::S3 { bucket, .. } => format!("s3://{bucket}/{key}"),
            Kind::Http { url, .. } => format!("{url}/{key}"),
        }
    }

    /// In parts of how many bytes a file of this size goes; none: as a whole.
    pub(super) fn part_bytes(&self, size_bytes: u64) -> Option<usize> {
        match self.kind {
            Kind::S3 { .. } if size_bytes > self.part_bytes as u64 => Some(self.part_bytes),
            _ => None,
        }
    }

    /// Whether a file of this size can be sent at all.
    pub(super) fn takes(&self, size_bytes: u64) -> Result<(), RemoteError> {
        match self.kind {
            Kind::Http { .. } if size_bytes > LARGEST_WHOLE_BYTES => Err(RemoteError::new(
                Trouble::Clip,
                format!("{size_bytes} bytes are too many for one HTTP PUT (at most {LARGEST_WHOLE_BYTES}): use s3://"),
            )),
            _ => Ok(()),
        }
    }

    pub(super) async fn put(&self, key: &Key, bytes: Vec<u8>) -> Result<(), RemoteError> {
        let options = PutOptions { attributes: attributes(), ..PutOptions::default() };
        let payload = PutPayload::from(bytes);
        let put = match &self.kind {
            Kind::S3 { store, .. } => store.put_opts(key, payload, options).await,
            Kind::Http { store, .. } => store.put_opts(key, payload, options).await,
        };
        put.map(|_| ()).map_err(|e| RemoteError::of("send it", &e))
    }

    /// Size of an object.
    pub(super) async fn size_of(&self, key: &Key) -> Result<u64, RemoteError> {
        let head = match &self.kind {
            Kind::S3 { store, .. } => store.head(key).await,
            Kind::Http { store, .. } => store.head(key).await,
        };
        head.map(|object| object.size).map_err(|e| RemoteError::of("ask for its size", &e))
    }

    /// Begins an upload in parts; its id.
    pub(super) async fn begin(&self, key: &Key) -> Result<String, RemoteError> {
        let options = PutMultipartOptions { attributes: attributes(), ..PutMultipartOptions::default() };
        self.s3()?.create_multipart_opts(key, options).await.map_err(|e| RemoteError::of("begin to send it", &e))
    }

    /// Sends one part; the server's word for it.
    pub(super) async fn part(&self, key: &Key, id: &str, n: usize, bytes: Vec<u8>) -> Result<String, RemoteError> {
        let sent = self.s3()?.put_part(key, &id.to_owned(), n, PutPayload::from(bytes)).await;
        sent.map(|part| part.content_id).map_err(|e| RemoteError::of(&format!("send part {}", n + 1), &e))
    }

    /// Makes the parts one object.
    pub(super) async fn complete(&self, key: &Key, id: &str, parts: &[String]) -> Result<(), RemoteError> {
        let parts = parts.iter().map(|part| PartId { content_id: part.clone() }).collect();
        let completed = self.s3()?.complete_multipart(key, &id.to_owned(), parts).await;
        completed.map(|_| ()).map_err(|e| RemoteError::of("complete it", &e))
    }

    /// Has the server let go of the parts of an upload that will not be completed.
    pub(super) async fn abort(&self, key: &Key, id: &str) -> Result<(), RemoteError> {
        let aborted = self.s3()?.abort_multipart(key, &id.to_owned()).await;
        aborted.map_err(|e| RemoteError::of("take back what was sent", &e))
    }

    fn s3(&self) -> Result<&AmazonS3, RemoteError> {
        match &self.kind {
            Kind::S3 { store, .. } => Ok(store),
            Kind::Http { .. } => Err(RemoteError::new(Trouble::Clip, "HTTP PUT knows no parts")),
        }
    }
}

/// The chain of causes, each once: object_store's own words repeat those of what is below them.
fn causes(e: &Error) -> String {
    let mut said = e.to_string();
    let mut source = std::error::Error::source(e);
    while let Some(e) = source {
        let cause = e.to_string();
        if !said.contains(&cause) {
            said.push_str(": ");
            said.push_str(&cause);
        }
        source = e.source();
    }
    said
}

fn attributes() -> Attributes {
    Attributes::from_iter([(Attribute::ContentType, "video/mp4")])
}

fn is_loopback(url: &str) -> bool {
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    host.is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}
