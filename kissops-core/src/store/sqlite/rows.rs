//! Rows become records here, and records become the values of columns.

use std::time::Duration;

use rusqlite::{
    Row, ToSql,
    types::{FromSqlError, Type},
};

use crate::{
    Timestamp,
    id::{BootId, InstanceName, ProcessIdentity, RecordId, RunId},
    store::{
        CrashRecord, CrashReport, Desired, EventKind, EventRecord, InstanceRecord, MemberRecord,
        NewEvent, RunEnd, RunRecord,
    },
    supervisor::{ExitStatus, ResourceUse, Signal},
};

type Read<T> = rusqlite::Result<T>;

/// The columns of [`instance`], in its order; likewise below.
pub(super) const INSTANCE: &str = "name, desired, restarts, failed, updated_at";
pub(super) const MEMBER: &str = "name, vars, added_at";
pub(super) const RUN: &str = "id, instance, pid, start_ticks, boot_id, started_at, ended_at, exit_code, exit_signal, core_dumped";
pub(super) const EVENT: &str = "id, at, instance, kind, from_state, to_state, reason";
pub(super) const CRASH: &str = "id, instance, run, at, exit_code, exit_signal, core_dumped, reason, out_of_memory, uptime_us, user_time_us, system_time_us, max_rss_bytes, restarts, last_lines";

pub(super) fn instance(row: &Row<'_>) -> Read<InstanceRecord> {
    Ok(InstanceRecord {
        name: parsed(row, 0)?,
        desired: match row.get_ref(1)?.as_str()? {
            "running" => Desired::Running,
            "stopped" => Desired::Stopped,
            other => return Err(damaged(1, format!("`{other}` is no desired state"))),
        },
        restarts: unsigned(row, 2)?,
        failed: row.get(3)?,
        updated_at: time(row, 4)?,
    })
}

pub(super) fn member(row: &Row<'_>) -> Read<MemberRecord> {
    Ok(MemberRecord { name: parsed(row, 0)?, vars: document(row, 1)?, added_at: time(row, 2)? })
}

pub(super) fn run(row: &Row<'_>) -> Read<RunRecord> {
    let ended_at: Option<i64> = row.get(6)?;
    let status = exit_status(row, 7)?;
    Ok(RunRecord {
        id: RunId(row.get(0)?),
        instance: parsed(row, 1)?,
        process: ProcessIdentity {
            pid: row.get(2)?,
            start_ticks: unsigned(row, 3)?,
            boot_id: BootId(row.get(4)?),
        },
        started_at: time(row, 5)?,
        end: ended_at.map(|at| RunEnd { at: Timestamp(at), status }),
    })
}

pub(super) fn event(row: &Row<'_>) -> Read<EventRecord> {
    let kind = if row.get_ref(4)?.data_type() == Type::Null {
        EventKind::Other(row.get(3)?)
    } else {
        EventKind::Transition { from: parsed(row, 4)?, to: parsed(row, 5)? }
    };
    Ok(EventRecord {
        id: RecordId(row.get(0)?),
        event: NewEvent {
            at: time(row, 1)?,
            instance: match row.get_ref(2)?.as_str_or_null()? {
                Some(_) => Some(parsed(row, 2)?),
                None => None,
            },
            kind,
            reason: row.get(6)?,
        },
    })
}

pub(super) fn crash(row: &Row<'_>) -> Read<CrashRecord> {
    let usage = match row.get::<_, Option<i64>>(10)? {
        Some(_) => Some(ResourceUse {
            user_time: span(row, 10)?,
            system_time: span(row, 11)?,
            max_rss_bytes: unsigned(row, 12)?,
        }),
        None => None,
    };
    Ok(CrashRecord {
        id: RecordId(row.get(0)?),
        report: CrashReport {
            instance: parsed(row, 1)?,
            run: RunId(row.get(2)?),
            at: time(row, 3)?,
            status: exit_status(row, 4)?,
            reason: row.get(7)?,
            out_of_memory: row.get(8)?,
            uptime: span(row, 9)?,
            usage,
            restarts: unsigned(row, 13)?,
            last_lines: document(row, 14)?,
        },
    })
}

/// An [`ExitStatus`] as its three columns: code, signal, core dumped.
pub(super) fn exit_columns(status: ExitStatus) -> (Option<i32>, Option<i32>, bool) {
    match status {
        ExitStatus::Code(code) => (Some(code), None, false),
        ExitStatus::Signal { signal, core_dumped } => (None, Some(signal.number()), core_dumped),
        ExitStatus::Unknown => (None, None, false),
    }
}

/// An [`EventKind`] as its three columns: kind, from, to.
pub(super) fn kind_columns(kind: &EventKind) -> (&str, Option<&str>, Option<&str>) {
    match kind {
        EventKind::Transition { from, to } => {
            ("instance.transition", Some(from.as_str()), Some(to.as_str()))
        }
        EventKind::Other(word) => (word, None, None),
    }
}

/// Whole microseconds, as they are stored; 292,000 years at most.
pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// The names as one value for `IN (SELECT value FROM json_each(…))`: so a statement's text never depends on their number.
pub(super) fn name_list(names: &[InstanceName]) -> Option<Box<dyn ToSql>> {
    if names.is_empty() {
        return None;
    }
    // Names are plain ASCII words; serializing them cannot fail.
    Some(Box::new(serde_json::to_string(names).unwrap_or_default()))
}

/// Three columns from `at` on.
fn exit_status(row: &Row<'_>, at: usize) -> Read<ExitStatus> {
    let (code, signal): (Option<i32>, Option<i32>) = (row.get(at)?, row.get(at + 1)?);
    Ok(match (code, signal) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, Some(number)) => ExitStatus::Signal {
            signal: Signal::new(number).map_err(|err| damaged(at + 1, err.chain()))?,
            core_dumped: row.get(at + 2)?,
        },
        (None, None) => ExitStatus::Unknown,
    })
}

fn time(row: &Row<'_>, at: usize) -> Read<Timestamp> {
    row.get(at).map(Timestamp)
}

fn span(row: &Row<'_>, at: usize) -> Read<Duration> {
    let micros: i64 = row.get(at)?;
    let micros = u64::try_from(micros)
        .map_err(|_| damaged(at, format!("{micros} is no span of microseconds")))?;
    Ok(Duration::from_micros(micros))
}

fn unsigned(row: &Row<'_>, at: usize) -> Read<u64> {
    row.get(at).map(i64::cast_unsigned)
}

fn parsed<T: std::str::FromStr<Err = crate::Error>>(row: &Row<'_>, at: usize) -> Read<T> {
    let text = row.get_ref(at)?.as_str()?;
    text.parse().map_err(|err: crate::Error| damaged(at, err.chain()))
}

fn document<T: serde::de::DeserializeOwned>(row: &Row<'_>, at: usize) -> Read<T> {
    let text = row.get_ref(at)?.as_str()?;
    serde_json::from_str(text).map_err(|err| damaged(at, err.to_string()))
}

fn damaged(at: usize, why: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        at,
        Type::Text,
        Box::new(FromSqlError::Other(why.into())),
    )
}
