//! Statuses of commands to the broker: retained, so that who asked and was away finds them, and gone after a day. What is
//! asked goes the other way, straight to the desk.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::error::SessionError;
use super::heartbeat::{Reporter, blocking};
use super::line::{Line, Verdict};
use crate::contract::command::{CommandDesk, CommandReport, CommandStatus};
use crate::contract::topics::Channel;

/// Statuses in one go.
const AT_ONCE: usize = 16;
/// Bytes of JSON: an answer that every broker takes is smaller.
const LARGE: usize = 4 * 1024;
/// How long a broker keeps a status.
const KEPT_S: u32 = 24 * 3600;
/// What was not taken, or what the database did not give, is looked at again after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Says every status, for as long as the connection lasts.
pub(super) async fn say_statuses(
    desk: Arc<dyn CommandDesk>,
    reporter: &Reporter,
    line: &Line,
    session: u64,
) -> Result<Infallible, SessionError> {
    let mut changed = desk.changed();
    loop {
        changed.borrow_and_update();
        loop {
            let reports = blocking(Arc::clone(&desk), |d| d.unsaid(AT_ONCE)).await;
            let mut said = Vec::new();
            for report in &reports {
                if say(&desk, reporter, line, session, report).await? {
                    said.push(report.clone());
                }
            }
            let all = said.len() == reports.len();
            blocking(Arc::clone(&desk), move |d| d.said(&said)).await;
            if reports.len() < AT_ONCE || !all {
                break;
            }
        }
        // The desk lives as long as the uplink.
        tokio::time::timeout(AGAIN_AFTER, changed.changed()).await.ok();
    }
}

/// Whether the broker took it.
async fn say(
    desk: &Arc<dyn CommandDesk>,
    reporter: &Reporter,
    line: &Line,
    session: u64,
    report: &CommandReport,
) -> Result<bool, SessionError> {
    // An id that is no name came from no topic.
    let Ok(id) = report.id.parse() else { return Ok(true) };
    let status = CommandStatus { origin: reporter.origin(session), report: report.clone() };
    let mut message = reporter.retained(&Channel::CommandStatus(id), &status);
    message.expiry_s = Some(KEPT_S);
    let shorten = async |why: &'static str| {
        log::error!("the answer to command {} is not said: {why}", report.id);
        let report = report.clone();
        blocking(Arc::clone(desk), move |d| d.unsayable(&report, why)).await;
    };
    match line.publish(message).await {
        Ok(Verdict::Taken | Verdict::NoSubscriber) => Ok(true),
        Ok(Verdict::NotSendable) if report.result.is_some() => {
            shorten("it is larger than the broker takes").await;
            Ok(false)
        }
        Ok(verdict) => {
            log::error!("the broker does not take the status of command {}: {verdict:?}", report.id);
            // Trying again would not make it smaller; the journal and the store have it.
            Ok(verdict == Verdict::NotSendable)
        }
        Err(e) => {
            // It may have been the cause, as it is where a broker has a limit that it did not tell of; then it would be the end
            // of the next connection too.
            if report.result.as_ref().is_some_and(|r| r.to_string().len() > LARGE) {
                shorten("the connection ended over it; ask again").await;
            }
            Err(e)
        }
    }
}
