//! Where a repository is published: a directory (a web server's, a USB stick's) or an S3 bucket.
//!
//! What is there is never overwritten but for the timestamp: a file that must be new and is there with other content means
//! that somebody else publishes, too.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{
    ClientOptions, Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};

use crate::base::atomic_file;

/// Why a place cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It is no place.
    #[error("{text:?} is no place to publish to: a directory, or s3://BUCKET/PREFIX")]
    Syntax {
        /// What was said.
        text: String,
    },
    /// A directory failed.
    #[error("cannot {operation} {}", path.display())]
    Dir {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A bucket failed.
    #[error("cannot {operation} {key} in the bucket{hint}")]
    Bucket {
        /// What was tried.
        operation: &'static str,
        /// On what.
        key: String,
        /// What to look at.
        hint: &'static str,
        /// Why.
        source: Box<Error>,
    },
    /// Somebody else has published.
    #[error(
        "{path} is published already, with other content: somebody else publishes there from another copy of the \
         repository. Take theirs (copy it over yours) and make your change again"
    )]
    Conflict {
        /// Which.
        path: String,
    },
}

/// See the module's doc.
#[derive(Debug)]
pub enum Place {
    /// A directory.
    Dir(PathBuf),
    /// A bucket, and what stands before every name in it.
    Bucket {
        /// The bucket.
        store: Box<AmazonS3>,
        /// "a/b/" or nothing.
        prefix: String,
        /// For people.
        url: String,
    },
}

/// How an S3 service is reached, beside its credentials: those are where its other programs look for them, too
/// (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and their like).
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    /// None: Amazon's.
    pub endpoint: Option<String>,
    /// None: `AWS_REGION`, or us-east-1.
    pub region: Option<String>,
    /// Access key and secret; none: from the environment.
    pub credentials: Option<(String, String)>,
}

/// What stands at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its path.
    pub path: String,
    /// When it came there, milliseconds since the Unix epoch.
    pub modified_unix_ms: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Dir(dir) => write!(f, "{}", dir.display()),
            Place::Bucket { url, .. } => f.write_str(url),
        }
    }
}

impl Place {
    /// From what the command line says.
    pub fn parse(text: &str, options: &S3Options) -> Result<Place, PlaceError> {
        let Some(rest) = text.strip_prefix("s3://") else {
            return match text.contains("://") || text.is_empty() {
                true => Err(PlaceError::Syntax { text: text.into() }),
                false => Ok(Place::Dir(text.into())),
            };
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(PlaceError::Syntax { text: text.into() });
        }
        let prefix = match prefix.trim_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_client_options(ClientOptions::new().with_allow_http(true));
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &options.region {
            builder = builder.with_region(region);
        }
        if let Some((access, secret)) = &options.credentials {
            builder = builder.with_access_key_id(access).with_secret_access_key(secret);
        }
        let store = Box::new(builder.build().map_err(|e| bucket_error("use", text, e))?);
        Ok(Place::Bucket { store, prefix, url: text.to_owned() })
    }

    /// What stands there; none: nothing.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, PlaceError> {
        Ok(self.get_with_tag(path).await?.map(|(bytes, _)| bytes))
    }

    async fn get_with_tag(&self, path: &str) -> Result<Option<(Bytes, UpdateVersion)>, PlaceError> {
        let no_tag = UpdateVersion { e_tag: None, version: None };
        match self {
            Place::Dir(dir) => match fs::read(dir.join(path)) {
                Ok(bytes) => Ok(Some((bytes.into(), no_tag))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(PlaceError::Dir { operation: "read", path: dir.join(path), source }),
            },
            Place::Bucket { store, prefix, .. } => {
                let failed = |e| bucket_error("read", path, e);
                match store.get_opts(&Key::from(format!("{prefix}{path}")), GetOptions::default()).await {
                    Ok(found) => {
                        let tag =
                            UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
                        Ok(Some((found.bytes().await.map_err(failed)?, tag)))
                    }
                    Err(Error::NotFound { .. }) => Ok(None),
                    Err(e) => Err(failed(e)),
                }
            }
        }
    }

    /// Its size; none: it is not there.
    pub async fn size_of(&self, path: &str) -> Result<Option<u64>, PlaceError> {
        match self {
            Place::Dir(dir) => match fs::metadata(dir.join(path)) {
                Ok(of) => Ok(Some(of.len())),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(PlaceError::Dir { operation: "read", path: dir.join(path), source }),
            },
            Place::Bucket { store, prefix, .. } => match store.head(&Key::from(format!("{prefix}{path}"))).await {
                Ok(found) => Ok(Some(found.size)),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(e) => Err(bucket_error("look at", path, e)),
            },
        }
    }

    /// Puts what is not there yet. The same content again is fine.
    pub async fn put_new(&self, path: &str, bytes: Bytes) -> Result<(), PlaceError> {
        let there = match self {
            Place::Dir(dir) => {
                let path = dir.join(path);
                let failed = |source| PlaceError::Dir { operation: "write", path: path.clone(), source };
                if path.exists() {
                    true
                } else {
                    if let Some(parent) = path.parent() {
                        fs::create_dir_all(parent).map_err(failed)?;
                    }
                    atomic_file::write(&path, &bytes).map_err(failed)?;
                    false
                }
            }
            Place::Bucket { store, prefix, .. } => {
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                let key = Key::from(format!("{prefix}{path}"));
                match store.put_opts(&key, PutPayload::from(bytes.clone()), options).await {
                    Ok(_) => false,
                    Err(Error::AlreadyExists { .. }) => true,
                    Err(e) => return Err(bucket_error("write", path, e)),
                }
            }
        };
        if there && self.get(path).await?.is_none_or(|found| found != bytes) {
            return Err(PlaceError::Conflict { path: path.into() });
        }
        Ok(())
    }

    /// Puts what replaces `before`: what was found there when it was looked at.
    pub async fn replace(&self, path: &str, before: Option<&Bytes>, bytes: Bytes) -> Result<(), PlaceError> {
        let found = self.get_with_tag(path).await?;
        if found.as_ref().map(|(bytes, _)| bytes) == Some(&bytes) {
            return Ok(());
        }
        if found.as_ref().map(|(bytes, _)| bytes) != before {
            return Err(PlaceError::Conflict { path: path.into() });
        }
        match self {
            Place::Dir(dir) => {
                let path = dir.join(path);
                let failed = |source| PlaceError::Dir { operation: "write", path: path.clone(), source };
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).map_err(failed)?;
                }
                atomic_file::write(&path, &bytes).map_err(failed)
            }
            Place::Bucket { store, prefix, .. } => {
                let mode = found.map_or(PutMode::Create, |(_, tag)| PutMode::Update(tag));
                let options = PutOptions { mode, ..PutOptions::default() };
                match store.put_opts(&Key::from(format!("{prefix}{path}")), PutPayload::from(bytes), options).await {
                    Ok(_) => Ok(()),
                    Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                        Err(PlaceError::Conflict { path: path.into() })
                    }
                    Err(e) => Err(bucket_error("write", path, e)),
                }
            }
        }
    }

    /// Everything directly below `folder`.
    pub async fn list(&self, folder: &str) -> Result<Vec<Object>, PlaceError> {
        match self {
            Place::Dir(dir) => {
                let at = dir.join(folder);
                let failed = |source| PlaceError::Dir { operation: "list", path: at.clone(), source };
                let mut found = Vec::new();
                let entries = match fs::read_dir(&at) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
                    entries => entries.map_err(failed)?,
                };
                for entry in entries {
                    let entry = entry.map_err(failed)?;
                    let of = entry.metadata().map_err(failed)?;
                    let modified_unix_ms = std::os::unix::fs::MetadataExt::mtime(&of).saturating_mul(1000);
                    if let Some(name) = entry.file_name().to_str().filter(|_| of.is_file()) {
                        found.push(Object { path: format!("{folder}/{name}"), modified_unix_ms });
                    }
                }
                Ok(found)
            }
            Place::Bucket { store, prefix, .. } => {
                let below = Key::from(format!("{prefix}{folder}"));
                let found: Vec<_> =
                    store.list(Some(&below)).try_collect().await.map_err(|e| bucket_error("list", folder, e))?;
                let object = |o: object_store::ObjectMeta| {
                    let path = o.location.as_ref().strip_prefix(prefix.as_str())?.to_owned();
                    Some(Object { path, modified_unix_ms: o.last_modified.timestamp_millis() })
                };
                Ok(found.into_iter().filter_map(object).collect())
            }
        }
    }

    /// Removes a file; one that is not there is fine.
    pub async fn delete(&self, path: &str) -> Result<(), PlaceError> {
        match self {
            Place::Dir(dir) => match fs::remove_file(dir.join(path)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(PlaceError::Dir { operation: "remove", path: dir.join(path), source })
                }
                _ => Ok(()),
            },
            Place::Bucket { store, prefix, .. } => match store.delete(&Key::from(format!("{prefix}{path}"))).await {
                Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                Err(e) => Err(bucket_error("remove", path, e)),
            },
        }
    }
}

fn bucket_error(operation: &'static str, key: &str, source: Error) -> PlaceError {
    let hint = match &source {
        Error::Unauthenticated { .. } | Error::PermissionDenied { .. } => {
            " (do AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY allow it?)"
        }
        Error::NotFound { .. } => " (is there such a bucket?)",
        _ => "",
    };
    PlaceError::Bucket { operation, key: key.into(), hint, source: Box::new(source) }
}
