//! What others may ask the device to do, whatever way they come: MQTT, the device's page, the CLI; and what becomes of it.
//!
//! Over MQTT a request is published to `.../cmd/{id}`, QoS 1, not retained; its status is said on `.../cmd/{id}/status`,
//! retained for a day. The id is the sender's and makes a request idempotent: the same id again is not carried out again,
//! its status is said again; with another command it is rejected, and the status of the first stays. States are those of
//! AWS IoT Jobs:
//!
//! ```text
//!     QUEUED ──► IN_PROGRESS ──► SUCCEEDED | FAILED | TIMED_OUT
//!        └─────► REJECTED (malformed, unknown, expired, too many, or not possible)
//! ```

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use super::state::Origin;
use crate::base::clock::Wall;

/// Longest `requested_by`, in characters.
const NAME_CHARS: usize = 128;

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Raise an incident marked `test` that takes the whole way: clip, store, outbox, broker.
    TestAlert {
        /// Camera; absent: the first one.
        #[serde(default)]
        camera: Option<String>,
    },
    /// Send messages again that a broker has had and that are not confirmed. Result: `rows`, how many go.
    Replay {
        /// First sequence number.
        from: u64,
        /// Last one; absent: the newest.
        #[serde(default)]
        to: Option<u64>,
    },
    /// Send an incident's clip to where `[upload]` says; a `clip_uploaded` alert says when it is there, and one that is still
    /// being made waits. And make new links to the device's own HTTPS (`[http]`), whose links expire. Result: `upload`, how
    /// that stands, and `links`, as far as the device has each.
    Clip {
        /// The incident.
        incident: Uuid,
    },
    /// A clip of a time that is past, as far as the ring in memory still holds it, with pre-roll and post-roll. It becomes an
    /// incident of class `Requested`, whose alerts say when its clip is ready, or why there is none. Result: `incident`.
    ClipRange {
        /// Camera.
        camera: String,
        /// RFC 3339.
        from: String,
        /// RFC 3339, after `from` and not in the future.
        to: String,
    },
    /// A picture of now. Result: `camera`, `jpeg_base64`, `width`, `height`, `time`.
    Snapshot {
        /// Camera; absent: the first one.
        #[serde(default)]
        camera: Option<String>,
    },
    /// Let incidents open, whatever the schedule says.
    Arm {
        /// Camera; absent: all of them.
        #[serde(default)]
        camera: Option<String>,
        /// RFC 3339: until then; absent: until told otherwise.
        #[serde(default)]
        until: Option<String>,
    },
    /// Let no incident open, whatever the schedule says. Video is kept, and tests pass.
    Disarm {
        /// Camera; absent: all of them.
        #[serde(default)]
        camera: Option<String>,
        /// RFC 3339: until then; absent: until told otherwise.
        #[serde(default)]
        until: Option<String>,
    },
    /// Arm by the schedule again.
    FollowSchedule {
        /// Camera; absent: all of them.
        #[serde(default)]
        camera: Option<String>,
    },
    /// Thresholds of a camera instead of the configured ones, until they are set again.
    SetThresholds {
        /// Camera.
        camera: String,
        /// By class; empty: the configured ones again.
        thresholds: BTreeMap<String, f32>,
    },
    /// An operator's word on an incident. The last one counts.
    Verdict {
        /// The incident.
        incident: Uuid,
        /// The word.
        verdict: Verdict,
        /// In the operator's own words.
        #[serde(default)]
        words: Option<String>,
    },
    /// Look whether the repository has a release, and install it if it is signed for this device: see the `update` messages
    /// for what comes of it. The same release again changes nothing; another one calls off what has not served yet.
    /// Result: `update`, the offer's id.
    UpdateModel {
        /// Its number.
        release: u64,
        /// The roll-out that it is part of; 1 to 64 characters.
        #[serde(default)]
        rollout: Option<String>,
    },
    /// Call off a release that is not committed: what has not served goes, what serves on trial is taken back. Result:
    /// `update`, the offer's id.
    CancelUpdate {
        /// Its number; absent: whichever it is.
        #[serde(default)]
        release: Option<u64>,
    },
    /// Use this certificate, which the device has asked for (see the `identity` messages), from the next connection on; where
    /// the broker refuses it, the device goes back to the one before. The same again changes nothing. Result: `serial`,
    /// `not_after`.
    InstallCertificate {
        /// The certificate, and after it what leads to the authority, in PEM; at most 16 KiB.
        certificate_pem: String,
    },
    /// Read the configuration file again. Result: `changes`, what it changed and what needs a restart.
    Reload {},
    /// End the daemon in good order; systemd starts it again.
    Restart {},
    /// How the device is, in full. Result: health, trouble, the newest of the audit trail.
    Diagnostics {},
}

/// An operator's word on an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was as the alert says.
    Confirmed,
    /// It was not.
    FalseAlarm,
    /// It cannot be told.
    Unclear,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Verdict; 3] = [Verdict::Confirmed, Verdict::FalseAlarm, Verdict::Unclear];

    /// Its word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Confirmed => "confirmed",
            Verdict::FalseAlarm => "false_alarm",
            Verdict::Unclear => "unclear",
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum CommandOutcome {
    /// Done, or durably under way.
    Accepted {
        /// The incident that it raised.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incident: Option<Uuid>,
        /// What it answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<Value>,
    },
    /// Not done, because it asks for what is not there or cannot be.
    Rejected {
        /// For the person who asked.
        reason: String,
    },
    /// Not done, because something went wrong.
    Failed {
        /// For the person who asked.
        reason: String,
    },
}

impl CommandOutcome {
    /// Done, with this to say.
    pub fn done(result: Value) -> Self {
        CommandOutcome::Accepted { incident: None, result: Some(result) }
    }
}

/// Where requests go; `control` implements it, `http` and `uplink` are given it.
pub trait CommandSink: Send + Sync {
    /// Carries out a request; `from` names who asked, for the audit trail. May block briefly.
    fn submit(&self, from: &str, command: Command) -> CommandOutcome;
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CommandState {
    /// It waits its turn.
    Queued,
    /// It is being carried out.
    InProgress,
    /// It is done.
    Succeeded,
    /// Something went wrong.
    Failed,
    /// It was not carried out: malformed, with an unknown command or field, impossible, one too many, under an id that was
    /// used for another; past `expires_at` when the device received it; or with `expires_at` while the device does not know
    /// the time.
    Rejected,
    /// The device had accepted it in time and was restarted or lost power before it was done, and `expires_at` was past
    /// when it was to be done again. It may have been done in part. One that had not expired is done again.
    TimedOut,
}

impl CommandState {
    /// All of them.
    pub const ALL: [CommandState; 6] = [
        CommandState::Queued,
        CommandState::InProgress,
        CommandState::Succeeded,
        CommandState::Failed,
        CommandState::Rejected,
        CommandState::TimedOut,
    ];

    /// Its word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            CommandState::Queued => "queued",
            CommandState::InProgress => "in_progress",
            CommandState::Succeeded => "succeeded",
            CommandState::Failed => "failed",
            CommandState::Rejected => "rejected",
            CommandState::TimedOut => "timed_out",
        }
    }
}

/// How a request stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CommandReport {
    /// The sender's id.
    pub id: String,
    /// How far it has come.
    pub state: CommandState,
    /// Why it is not done, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// RFC 3339, UTC: since when it is so.
    pub since: String,
}

/// `.../cmd/{id}/status`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CommandStatus {
    /// Who says it.
    #[serde(flatten)]
    pub origin: Origin,
    /// How it stands.
    #[serde(flatten)]
    pub report: CommandReport,
}

/// `.../cmd/{id}`: a [`Command`]'s fields and these. A field that is not listed here is rejected, on purpose: a device of an
/// older version must not do half of what was meant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("unevaluatedProperties" = false))]
pub struct Request {
    /// What is asked.
    #[serde(flatten)]
    pub command: Command,
    /// RFC 3339: received after this time, or while the device does not know the time, it is REJECTED; cut off by a restart
    /// and taken up again after this time, it is TIMED_OUT. Absent: it never expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Who asks, for the audit trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
}

/// A request that could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// What is asked.
    pub command: Command,
    /// It is refused after this time.
    pub expires: Option<Wall>,
    /// Who asks.
    pub requested_by: Option<String>,
}

/// Why a payload is no request, for the person who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoRequest(pub String);

impl Order {
    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Order, NoRequest> {
        let no = |why: String| NoRequest(why);
        let mut fields: Fields =
            serde_json::from_slice(payload).map_err(|e| no(format!("the payload is no JSON object: {e}")))?;
        let mut text = |key: &str| match fields.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(no(format!("`{key}`: is not a text"))),
        };
        let (expires_at, requested_by) = (text("expires_at")?, text("requested_by")?);
        let expires = expires_at.map(|t| time("expires_at", &t)).transpose()?;
        if requested_by.as_ref().is_some_and(|by| by.chars().count() > NAME_CHARS) {
            return Err(no(format!("requested_by is longer than {NAME_CHARS} characters")));
        }
        let command = read(&fields).map_err(|e| no(with_field(&fields, e)))?;
        Ok(Order { command, expires, requested_by })
    }
}

type Fields = serde_json::Map<String, Value>;

fn read(fields: &Fields) -> Result<Command, String> {
    serde_json::from_value(Value::Object(fields.clone())).map_err(|e| e.to_string())
}

/// What is wrong, with the name of the field. The parser itself does not know it: which of the commands it is decides how
/// the rest is read, and for that it reads all fields beforehand. It stops at the first that it cannot take, so that is the
/// one that the fields up to it fail by as all of them do.
fn with_field(fields: &Fields, why: String) -> String {
    if why.starts_with("missing field") || why.starts_with("unknown field") {
        return why;
    }
    let mut so_far: Fields = fields.get("command").map(|tag| ("command".to_owned(), tag.clone())).into_iter().collect();
    if read(&so_far).is_err_and(|e| e == why) {
        return format!("`command`: {why}");
    }
    for (name, value) in fields {
        so_far.insert(name.clone(), value.clone());
        if read(&so_far).is_err_and(|e| e == why) {
            return format!("`{name}`: {why}");
        }
    }
    why
}

/// Reads a time of a request.
pub fn time(key: &str, text: &str) -> Result<Wall, NoRequest> {
    let read: Result<jiff::Timestamp, _> = text.parse();
    read.map(|t| Wall::from_unix_ms(t.as_millisecond()))
        .map_err(|_| NoRequest(format!("{key} = {text:?} is no RFC 3339 time such as 2026-03-01T12:00:00Z")))
}

/// Tells the broker that it need not keep a message any more.
pub type Receipt = Box<dyn FnOnce() + Send>;

/// Where requests of the broker go and their statuses come from; `control` implements it, `uplink` is given it.
pub trait CommandDesk: Send + Sync {
    /// Takes a request; never blocks. `receipt` is to be called once it is durable: what has none comes again over the next
    /// connection.
    fn take(&self, id: &str, payload: &[u8], receipt: Receipt);
    /// Statuses that no broker has yet, at most `limit`. May block on the disk.
    fn unsaid(&self, limit: usize) -> Vec<CommandReport>;
    /// A broker has these. May block on the disk.
    fn said(&self, reports: &[CommandReport]);
    /// A broker does not take this one, whose answer is too large for it: a shorter one is to be said. May block on the
    /// disk.
    fn unsayable(&self, report: &CommandReport, why: &str);
    /// Its version grows whenever there may be statuses to say.
    fn changed(&self) -> watch::Receiver<u64>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_or_refused_with_the_reason() {
        let order = Order::parse(
            br#"{"command": "verdict", "incident": "00000000-0000-0000-0000-000000000001", "verdict": "false_alarm",
                 "words": "a branch", "expires_at": "1970-01-01T00:00:01Z", "requested_by": "operator 7"}"#,
        )
        .expect("a request");
        assert_eq!(order.expires, Some(Wall::from_unix_ms(1000)));
        assert_eq!(order.requested_by.as_deref(), Some("operator 7"));
        let verdict = Command::Verdict {
            incident: Uuid::from_u128(1),
            verdict: Verdict::FalseAlarm,
            words: Some("a branch".into()),
        };
        assert_eq!(order.command, verdict);
        assert_eq!(Order::parse(br#"{"command": "restart"}"#).expect("a request").command, Command::Restart {});
        for (bad, why) in [
            (&b""[..], "no JSON object"),
            (b"[]", "no JSON object"),
            (b"{}", "command"),
            (br#"{"command": "dance"}"#, "dance"),
            (br#"{"command": "restart", "now": true}"#, "now"),
            (br#"{"command": "replay"}"#, "from"),
            (br#"{"command": "replay", "from": -1}"#, "-1"),
            (br#"{"command": "restart", "expires_at": "soon"}"#, "soon"),
            (br#"{"command": "restart", "requested_by": 7}"#, "requested_by"),
            (b"\xff", "no JSON object"),
            (br#"{"command": "dance"}"#, "`command`: unknown variant `dance`"),
            (br#"{"command": 7}"#, "`command`: "),
            (br#"{"command": "test_alert", "camera": 5}"#, "`camera`: invalid type: integer `5`, expected a string"),
            (br#"{"command": "clip_range", "camera": 5, "from": 5, "to": "x"}"#, "`camera`: invalid type"),
            (br#"{"command": "clip_range", "camera": "c", "from": 5, "to": 5}"#, "`from`: invalid type"),
            (br#"{"command": "clip", "incident": "no-uuid"}"#, "`incident`: "),
            (
                br#"{"command": "set_thresholds", "camera": "c", "thresholds": {"Fighting": "x"}}"#,
                "`thresholds`: invalid",
            ),
            (
                br#"{"command": "verdict", "incident": "00000000-0000-0000-0000-000000000001", "verdict": "maybe"}"#,
                "`verdict`: unknown variant `maybe`",
            ),
        ] {
            let e = Order::parse(bad).expect_err("no request");
            assert!(e.0.contains(why), "{e} of {}", String::from_utf8_lossy(bad));
        }
        let long = format!(r#"{{"command": "restart", "requested_by": "{}"}}"#, "x".repeat(NAME_CHARS + 1));
        assert!(Order::parse(long.as_bytes()).is_err());
    }
}
