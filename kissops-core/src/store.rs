//! [`Store`]: what must survive a restart, as typed records behind one small trait per concept.
//!
//! Two engines keep the same rules, `conformance::store` (feature `conformance`): [`sqlite`], one file and no server,
//! and [`postgres`]. A concept has its records and its trait in a module of its own, and its statements once for both
//! engines in `sql`.

mod alerts;
mod backups;
mod channels;
#[cfg(all(feature = "sqlite", feature = "postgres"))]
mod copy;
mod crashes;
mod drills;
mod events;
mod health;
mod instances;
mod jobs;
mod maintenance;
mod members;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod migrate;
mod names;
mod outbox;
#[cfg(feature = "postgres")]
pub mod postgres;
mod runs;
mod silences;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod url;

#[cfg(all(feature = "sqlite", feature = "postgres"))]
pub use self::copy::{CopiedTable, CopyPhase, CopyProgress, CopyReport, copy};
pub use self::{
    alerts::{
        Acknowledgement, AlertChange, AlertContent, AlertId, AlertKey, AlertQuery, AlertRecord,
        AlertState, AlertStore, NewAlert, Opening, Severity,
    },
    backups::{
        Archive, ArchiveName, BackupCopy, BackupCopyState, BackupEnd, BackupId, BackupKind,
        BackupQuery, BackupRecord, BackupState, BackupStateName, BackupStore, NewBackup, PlanName,
        SinkName,
    },
    channels::{ChannelFailure, ChannelHealth, ChannelRecord, ChannelStore, RateBucket},
    crashes::{CrashQuery, CrashRecord, CrashReport, CrashStore},
    drills::{
        DrillCheck, DrillEnd, DrillId, DrillOutcome, DrillQuery, DrillRecord, DrillStore, NewDrill,
    },
    events::{EventKind, EventQuery, EventRecord, EventStore, NewEvent},
    health::{
        HealthStore, HistoryQuery, ProbeName, ProbeResult, ProbeSample, ProbeStatus, RollUp,
        RollUpSpan, StatusCounts, ValueRange,
    },
    instances::{Desired, InstanceRecord, InstanceStore},
    jobs::{
        JobCause, JobClaim, JobDue, JobEnd, JobName, JobOutcome, JobRecord, JobRun, JobRunId,
        JobRunQuery, JobRunState, JobStore,
    },
    maintenance::{CheckReport, MaintenanceStore, TableSize, VacuumReport},
    members::{MemberRecord, MemberStore},
    outbox::{
        Backlog, ChannelName, Claimant, Delivery, DeliveryOutcome, DeliveryState,
        NotificationClaim, NotificationId, NotificationKind, NotificationQuery, NotificationRecord,
        OutboxStore, Outgoing,
    },
    runs::{RunEnd, RunRecord, RunStore},
    silences::{MatchKind, Matcher, NewSilence, SilenceId, SilenceRecord, SilenceStore},
    url::{StoreOptions, StoreUrl, open},
};

/// What a supervisor and its fleet keep.
pub trait FleetStore: InstanceStore + MemberStore + RunStore + EventStore + CrashStore {}

impl<T: InstanceStore + MemberStore + RunStore + EventStore + CrashStore> FleetStore for T {}

/// What is found wrong, and who is told.
pub trait WatchStore: HealthStore + AlertStore + SilenceStore + OutboxStore + ChannelStore {}

impl<T: HealthStore + AlertStore + SilenceStore + OutboxStore + ChannelStore> WatchStore for T {}

/// What is done again and again so that nothing goes wrong.
pub trait UpkeepStore: JobStore + BackupStore + DrillStore {}

impl<T: JobStore + BackupStore + DrillStore> UpkeepStore for T {}

/// All that outlives the daemon. Held as `Arc<dyn Store>`.
///
/// Each method is one transaction: it happened whole or not at all, and once it has answered it is there after the
/// process is killed at any later moment. Times are UTC with microseconds and come from the caller. A NUL character in
/// a text is kept as U+FFFD: Postgres has none.
///
/// # Errors
/// Every method: [`Unavailable`](crate::Error::Unavailable) if the database does not answer (a full disk included),
/// [`Corrupt`](crate::Error::Corrupt) if a row cannot be what was written.
///
/// # Cancel safety
/// A dropped call may still take effect, whole.
pub trait Store: FleetStore + WatchStore + UpkeepStore + MaintenanceStore {}

impl<T: FleetStore + WatchStore + UpkeepStore + MaintenanceStore> Store for T {}
