//! The command line's side of the daemon's socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use uuid::Uuid;

use super::{Install, socket_path};
use crate::contract::command::{Command, CommandOutcome};

const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Why the daemon did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no vedette daemon answers on {}: is it running (systemctl status vedette), and are you in its group?", .path.display())]
    Absent {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It listened, but the exchange failed.
    #[error("the daemon on {} did not answer as expected: {reason}", .path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
}

/// Asks the daemon with this runtime directory to carry out a command.
pub async fn submit(runtime_dir: &Path, command: &Command, timeout: Duration) -> Result<CommandOutcome, ClientError> {
    let body = serde_json::to_vec(command).expect("commands are plain data");
    request(runtime_dir, "POST", "/v1/commands", body, timeout).await
}

/// The daemon's health snapshot.
pub async fn status(runtime_dir: &Path, timeout: Duration) -> Result<serde_json::Value, ClientError> {
    request(runtime_dir, "GET", "/v1/status", Vec::new(), timeout).await
}

/// Links to an incident's clip and picture, or `{"refused": why}`.
pub async fn link(runtime_dir: &Path, incident: Uuid, timeout: Duration) -> Result<serde_json::Value, ClientError> {
    request(runtime_dir, "GET", &format!("/v1/incidents/{incident}/link"), Vec::new(), timeout).await
}

/// Has the clip of an incident sent; how that stands, or `{"refused": why}`.
pub async fn upload(runtime_dir: &Path, incident: Uuid, timeout: Duration) -> Result<serde_json::Value, ClientError> {
    request(runtime_dir, "POST", &format!("/v1/incidents/{incident}/upload"), Vec::new(), timeout).await
}

/// How the device stands with its model, or what became of releases (`history`), or `{"refused": why}`.
pub async fn updates(runtime_dir: &Path, history: bool, timeout: Duration) -> Result<serde_json::Value, ClientError> {
    let route = if history { "/v1/update/history" } else { "/v1/update" };
    request(runtime_dir, "GET", route, Vec::new(), timeout).await
}

/// Offers a release; the offer's id, or `{"refused": why}`.
pub async fn install(
    runtime_dir: &Path,
    install: &Install,
    timeout: Duration,
) -> Result<serde_json::Value, ClientError> {
    let body = serde_json::to_vec(install).expect("a path and a number");
    request(runtime_dir, "POST", "/v1/update", body, timeout).await
}

async fn request<T: serde::de::DeserializeOwned>(
    runtime_dir: &Path,
    method: &str,
    route: &str,
    body: Vec<u8>,
    timeout: Duration,
) -> Result<T, ClientError> {
    let path = socket_path(runtime_dir);
    let broken = |reason: String| ClientError::Broken { path: path.clone(), reason };
    let stream =
        UnixStream::connect(&path).await.map_err(|source| ClientError::Absent { path: path.clone(), source })?;
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let driver = tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(route)
            .header("host", "vedette")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = response.status();
        let bytes =
            Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|e| e.to_string())?.to_bytes();
        driver.abort();
        serde_json::from_slice(&bytes).map_err(|_| format!("{code}: {}", String::from_utf8_lossy(&bytes)))
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(answer) => answer.map_err(broken),
        Err(_) => Err(broken(format!("no answer within {} s", timeout.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Api, HttpError, bind, serve};
    use super::*;
    use crate::base::stop::StopToken;
    use crate::contract::command::CommandSink;

    struct OneCamera;

    impl CommandSink for OneCamera {
        fn submit(&self, from: &str, command: Command) -> CommandOutcome {
            assert_eq!(from, "cli");
            match command {
                Command::TestAlert { camera: Some(c) } if c != "door" => {
                    CommandOutcome::Rejected { reason: format!("no camera {c}") }
                }
                Command::TestAlert { .. } => CommandOutcome::Accepted { incident: Some(Uuid::nil()), result: None },
                other => panic!("nobody asked for {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_command_goes_there_and_its_outcome_comes_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let patience = Duration::from_secs(20);
        let ask = |camera: Option<&str>| Command::TestAlert { camera: camera.map(String::from) };
        let absent = submit(dir.path(), &ask(None), patience).await.expect_err("nobody listens");
        assert!(matches!(absent, ClientError::Absent { .. }), "{absent}");

        // What a killed daemon leaves behind is replaced; a living one's is not.
        drop(std::os::unix::net::UnixListener::bind(socket_path(dir.path())).expect("bindable"));
        let listener = bind(dir.path()).expect("a stale socket is replaced");
        let api = Api {
            commands: Arc::new(OneCamera),
            link: Arc::new(|_| Ok(serde_json::json!({"clip": null}))),
            upload: Arc::new(|id| match id.is_nil() {
                true => Ok(serde_json::json!({"state": "queued"})),
                false => Err("no such clip".into()),
            }),
            updates: Arc::new(|_| Err("no updates here".into())),
            status: Arc::new(|| serde_json::json!({"up": true})),
        };
        let stop = StopToken::new();
        let server = tokio::spawn(serve(listener, api, stop.clone()));
        assert!(matches!(bind(dir.path()), Err(HttpError::InUse(_))));

        let accepted = submit(dir.path(), &ask(None), patience).await.expect("answers");
        assert_eq!(accepted, CommandOutcome::Accepted { incident: Some(Uuid::nil()), result: None });
        let rejected = submit(dir.path(), &ask(Some("roof")), patience).await.expect("answers");
        assert_eq!(rejected, CommandOutcome::Rejected { reason: "no camera roof".into() });
        assert_eq!(status(dir.path(), patience).await.expect("answers")["up"], true);
        assert_eq!(upload(dir.path(), Uuid::nil(), patience).await.expect("answers")["state"], "queued");
        let refused = upload(dir.path(), Uuid::max(), patience).await.expect("answers");
        assert_eq!(refused["refused"], "no such clip");

        stop.stop();
        server.await.expect("no panic").expect("a clean end");
        assert!(!socket_path(dir.path()).exists());
    }
}
