//! What is wrong now, with cameras and the device. A trouble is raised once and cleared once, each with its notice in the
//! same transaction, however often it is said and over restarts.

use rusqlite::{OptionalExtension, params};
use uuid::Uuid;

use crate::base::clock::Wall;
use crate::contract::notice::{Notice, NoticeKind, Trouble, TroubleReport};

use super::apply::Apply;
use super::error::sql;
use super::reader::{self, Reader};
use super::{DeviceContext, StoreError, volatile};

/// A row of the table.
#[derive(Debug, Clone)]
pub(super) struct Raised {
    pub id: Uuid,
    /// Words for a person.
    pub detail: String,
    pub since: Wall,
}

/// What tells of it.
pub(super) fn notice(
    context: &DeviceContext,
    kind: NoticeKind,
    (camera, trouble): (Option<&str>, Trouble),
    raised: Raised,
    now: Wall,
) -> Notice {
    Notice {
        id: volatile::derived_id(raised.id, &format!("{kind:?}")),
        kind,
        event_time_unix_ms: now,
        clock: (context.clock_state)(),
        severity: trouble.severity(),
        place: context.labels.place(camera),
        notice: TroubleReport {
            id: raised.id,
            site: context.site.clone(),
            device: context.device.clone(),
            camera: camera.map(str::to_owned),
            trouble,
            detail: raised.detail,
            since: raised.since.rfc3339(),
        },
    }
}

impl Apply<'_> {
    /// See [`super::Store::trouble`].
    pub(super) fn trouble(
        &mut self,
        camera: Option<&str>,
        trouble: Trouble,
        found: Option<Raised>,
    ) -> Result<(), StoreError> {
        let raised = self.raised(camera, trouble)?;
        let key = params![camera.unwrap_or_default(), trouble.as_str()];
        match (raised, found) {
            (None, None) | (Some(_), Some(_)) => Ok(()),
            (None, Some(raised)) => {
                self.conn()
                    .execute(
                        "INSERT INTO troubles (id, camera, trouble, detail, since_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                        params![
                            raised.id.to_string(),
                            camera.unwrap_or_default(),
                            trouble.as_str(),
                            raised.detail,
                            raised.since.unix_ms()
                        ],
                    )
                    .map_err(sql("record trouble", self.path()))?;
                self.notice(NoticeKind::Raised, camera, trouble, raised)
            }
            (Some(raised), None) => {
                self.conn()
                    .execute("DELETE FROM troubles WHERE camera = ?1 AND trouble = ?2", key)
                    .map_err(sql("record that trouble is over", self.path()))?;
                self.notice(NoticeKind::Cleared, camera, trouble, raised)
            }
        }
    }

    fn raised(&self, camera: Option<&str>, trouble: Trouble) -> Result<Option<Raised>, StoreError> {
        let row = self
            .conn()
            .prepare_cached("SELECT id, detail, since_ms FROM troubles WHERE camera = ?1 AND trouble = ?2")
            .and_then(|mut s| {
                s.query_row(params![camera.unwrap_or_default(), trouble.as_str()], |r| {
                    Ok((r.get::<_, String>(0)?, r.get(1)?, r.get(2)?))
                })
                .optional()
            })
            .map_err(sql("read troubles", self.path()))?;
        row.map(|(id, detail, since)| {
            Ok(Raised { id: reader::uuid(self.path(), &id)?, detail, since: Wall::from_unix_ms(since) })
        })
        .transpose()
    }

    fn notice(
        &mut self,
        kind: NoticeKind,
        camera: Option<&str>,
        trouble: Trouble,
        raised: Raised,
    ) -> Result<(), StoreError> {
        let notice = notice(self.context(), kind, (camera, trouble), raised, self.wall());
        self.queue(&notice.into())
    }
}

impl Reader {
    /// What is raised now: camera (none for the device) and trouble. One that this version does not know is left out.
    pub fn troubles(&self) -> Result<Vec<(Option<String>, Trouble)>, StoreError> {
        self.with(|conn, path| {
            let rows: Vec<(String, String)> = conn
                .prepare_cached("SELECT camera, trouble FROM troubles ORDER BY since_ms")
                .and_then(|mut s| s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect())
                .map_err(sql("read troubles", path))?;
            let known = |word: &str| Trouble::ALL.into_iter().find(|t| t.as_str() == word);
            Ok(rows
                .into_iter()
                .filter_map(|(camera, trouble)| Some((Some(camera).filter(|c| !c.is_empty()), known(&trouble)?)))
                .collect())
        })
    }
}
