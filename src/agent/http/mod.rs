//! The daemon's HTTP interface: the command line's routes on a Unix socket in the runtime directory, which the device's
//! page will use as well; and, each by config, clips for who has a link over HTTPS (`links`, `media`, `range`, `tls`),
//! and Prometheus metrics (`metrics`). `listener` is what those two have in common: anybody may knock there. Who may ask
//! on the socket is decided by its mode: its owner and group.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/status` | the health snapshot, as the heartbeat carries it |
//! | `POST /v1/commands` | body: a [`Command`]; a [`CommandOutcome`], 200 accepted, 409 rejected, 500 failed |
//! | `GET /v1/incidents/{id}/link` | links to its clip and the picture of its peak, or 409 and why not |
//! | `POST /v1/incidents/{id}/upload` | has its clip sent; how that stands, or 409 and why not |
//! | `GET /v1/update`, `GET /v1/update/history` | how the device stands with its model; what became of releases |
//! | `POST /v1/update` | body: [`Install`]; the offer's id, or 409 and why not |
//!
//! What does not belong here: deciding anything. Commands go to the [`CommandSink`] it was given.

pub mod client;
pub mod links;
pub mod listener;
pub mod media;
pub mod metrics;
mod range;
pub mod tls;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::net::UnixListener;
use uuid::Uuid;

use crate::base::stop::StopToken;
use crate::contract::command::{Command, CommandOutcome, CommandSink};

/// Largest request body that is read.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// A question about an incident, and its answer or why there is none.
pub type Ask = Arc<dyn Fn(Uuid) -> Result<serde_json::Value, String> + Send + Sync>;

/// A release from a directory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// The copy of a repository: an absolute path.
    pub dir: PathBuf,
    /// Which of its releases.
    pub release: u64,
}

/// What is asked about updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskUpdates {
    /// How the device stands.
    Status,
    /// What became of releases.
    History,
    /// A release is offered.
    Install(Install),
}

/// What the routes stand on.
#[derive(Clone)]
pub struct Api {
    /// Where commands go.
    pub commands: Arc<dyn CommandSink>,
    /// Links to what there is of an incident, or why there are none.
    pub link: Ask,
    /// Has the clip of an incident sent; how that stands, or why not.
    pub upload: Ask,
    /// Answers about updates, or why not.
    pub updates: Arc<dyn Fn(AskUpdates) -> Result<serde_json::Value, String> + Send + Sync>,
    /// Takes a snapshot of the device's health.
    pub status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
}

/// Why the socket could not be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Another daemon answers on it.
    #[error("another vedette daemon already listens on {}; stop it or set another paths.runtime_dir", .0.display())]
    InUse(PathBuf),
    /// The operating system said no.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// The socket of the daemon with this runtime directory.
pub fn socket_path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("vedette.sock")
}

/// Binds the daemon's socket, replacing one that a killed daemon left behind. Needs a tokio runtime's context.
pub fn bind(runtime_dir: &Path) -> Result<UnixListener, HttpError> {
    let path = socket_path(runtime_dir);
    let fail = |operation| {
        let path = path.clone();
        move |source| HttpError::Io { operation, path, source }
    };
    std::fs::create_dir_all(runtime_dir).map_err(fail("create the directory of"))?;
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(HttpError::InUse(path));
        }
        std::fs::remove_file(&path).map_err(fail("remove the stale socket"))?;
    }
    let listener = UnixListener::bind(&path).map_err(fail("listen on"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).map_err(fail("set the mode of"))?;
    Ok(listener)
}

/// Serves until stopped, then removes the socket.
pub async fn serve(listener: UnixListener, api: Api, stop: StopToken) -> io::Result<()> {
    let path = listener.local_addr().ok().and_then(|a| a.as_pathname().map(Path::to_path_buf));
    let stopped = async move { stop.stopped().await };
    let served = axum::serve(listener, routes(api)).with_graceful_shutdown(stopped).await;
    if let Some(path) = path
        && let Err(e) = std::fs::remove_file(&path)
    {
        log::warn!("cannot remove the socket {}: {e}", path.display());
    }
    served
}

fn routes(api: Api) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/commands", post(command))
        .route("/v1/incidents/{id}/link", get(link))
        .route("/v1/incidents/{id}/upload", post(upload))
        .route("/v1/update", get(update).post(install))
        .route("/v1/update/history", get(history))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(api)
}

async fn status(State(api): State<Api>) -> Response {
    blocking(move || Json((api.status)()).into_response()).await
}

async fn command(State(api): State<Api>, Json(command): Json<Command>) -> Response {
    blocking(move || {
        let outcome = api.commands.submit("cli", command);
        let code = match outcome {
            CommandOutcome::Accepted { .. } => StatusCode::OK,
            CommandOutcome::Rejected { .. } => StatusCode::CONFLICT,
            CommandOutcome::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, Json(outcome)).into_response()
    })
    .await
}

async fn link(State(api): State<Api>, UrlPath(incident): UrlPath<Uuid>) -> Response {
    blocking(move || answer((api.link)(incident))).await
}

async fn upload(State(api): State<Api>, UrlPath(incident): UrlPath<Uuid>) -> Response {
    blocking(move || answer((api.upload)(incident))).await
}

async fn update(State(api): State<Api>) -> Response {
    blocking(move || answer((api.updates)(AskUpdates::Status))).await
}

async fn history(State(api): State<Api>) -> Response {
    blocking(move || answer((api.updates)(AskUpdates::History))).await
}

async fn install(State(api): State<Api>, Json(install): Json<Install>) -> Response {
    blocking(move || answer((api.updates)(AskUpdates::Install(install)))).await
}

/// The answer, or why there is none, for the person who asked.
fn answer(answer: Result<serde_json::Value, String>) -> Response {
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(why) => (StatusCode::CONFLICT, Json(serde_json::json!({ "refused": why }))).into_response(),
    }
}

/// Commands and sensors may touch the disk; that is not for the runtime's own threads.
async fn blocking(f: impl FnOnce() -> Response + Send + 'static) -> Response {
    tokio::task::spawn_blocking(f).await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}
