//! [`Store`]: what must survive a restart, as typed records behind one small trait per concept.
//!
//! Two engines keep the same rules, `conformance::store` (feature `conformance`): [`sqlite`], one file and no server,
//! and [`postgres`]. A concept has its records and its trait in a module of its own, and its statements once for both
//! engines in `sql`.

mod alerts;
mod api_keys;
mod audit;
mod backups;
mod channels;
#[cfg(all(feature = "sqlite", feature = "postgres"))]
mod copy;
mod crashes;
mod data_keys;
mod drills;
mod events;
mod grants;
mod health;
mod hosts;
mod instances;
mod jobs;
mod leases;
mod maintenance;
mod members;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod migrate;
mod names;
mod outbox;
#[cfg(feature = "postgres")]
pub mod postgres;
mod refreshes;
mod runs;
mod sealed;
mod secrets;
mod silences;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod url;
mod users;

#[cfg(all(feature = "sqlite", feature = "postgres"))]
pub use self::copy::{CopiedTable, CopyPhase, CopyProgress, CopyReport, copy, copy_until};
pub use self::{
    alerts::{
        Acknowledgement, AlertChange, AlertContent, AlertId, AlertKey, AlertQuery, AlertRecord,
        AlertState, AlertStore, NewAlert, Opening, Severity,
    },
    api_keys::{
        API_KEY_USE_RESOLUTION, Access, ApiKeyId, ApiKeyRecord, ApiKeyStore, KeyHash, NewApiKey,
    },
    audit::{
        Actor, AuditEnds, AuditHash, AuditLink, AuditOutcome, AuditQuery, AuditRecord, AuditSeq,
        AuditStore, AuditVerdict, NewAudit, verify_audit,
    },
    backups::{
        Archive, ArchiveName, BackupCopy, BackupCopyState, BackupEnd, BackupId, BackupKind,
        BackupQuery, BackupRecord, BackupState, BackupStateName, BackupStore, NewBackup, PlanName,
        SinkName,
    },
    channels::{ChannelFailure, ChannelHealth, ChannelRecord, ChannelStore, RateBucket},
    crashes::{CrashQuery, CrashRecord, CrashReport, CrashStore},
    data_keys::{DataKeyRecord, DataKeyStore, KekId, NewDataKey},
    drills::{
        DrillCheck, DrillEnd, DrillId, DrillOutcome, DrillQuery, DrillRecord, DrillState,
        DrillStore, NewDrill,
    },
    events::{EventKind, EventQuery, EventRecord, EventStore, NewEvent},
    grants::{
        AuthorizedGrant, Due, DueQuery, FailureClass, Generation, GrantExpiries, GrantExpiry,
        GrantFailure, GrantFlow, GrantId, GrantKey, GrantQuery, GrantRecord, GrantState,
        GrantStateName, GrantStatus, GrantStore, GrantVersion, NewGrant, SealedToken, TokenId,
        TokenKind,
    },
    health::{
        HealthStore, HistoryQuery, ProbeName, ProbeResult, ProbeSample, ProbeStatus, RollUp,
        RollUpSpan, StatusCounts, ValueRange,
    },
    hosts::{HostId, HostLease, HostRecord, HostSession, HostState, HostStore, NewHost},
    instances::{Desired, InstanceRecord, InstanceStore},
    jobs::{
        JobCause, JobClaim, JobDue, JobEnd, JobName, JobOutcome, JobRecord, JobRun, JobRunId,
        JobRunQuery, JobRunState, JobStore, Overlap,
    },
    leases::{Fence, FencingToken, HolderId, Lease, LeaseName, LeaseRecord, LeaseStore},
    maintenance::{CheckReport, MaintenanceStore, PoolStatus, TableSize, VacuumReport},
    members::{MemberRecord, MemberStore},
    outbox::{
        Backlog, ChannelName, Claimant, Delivery, DeliveryOutcome, DeliveryState,
        NotificationClaim, NotificationId, NotificationKind, NotificationQuery, NotificationRecord,
        OutboxStore, Outgoing,
    },
    refreshes::{
        Landing, LandingId, NewGeneration, NewRefresh, PreviousPair, RefreshPhase, RefreshRecord,
        RefreshStore,
    },
    runs::{RunEnd, RunRecord, RunStore},
    sealed::{DataKeyId, Sealed, SealedBy},
    secrets::{
        Fingerprint, NewSecret, SecretId, SecretRecord, SecretSource, SecretStore, SecretValue,
    },
    silences::{MatchKind, Matcher, NewSilence, SilenceId, SilenceRecord, SilenceStore},
    url::{StoreOptions, StoreUrl, newest_schema_version, open, schema_version},
    users::{NewUser, PasswordHash, Role, UserChange, UserId, UserRecord, UserStore},
};

/// What a supervisor and its fleet keep.
pub trait FleetStore: InstanceStore + MemberStore + RunStore + EventStore + CrashStore {}

impl<T: InstanceStore + MemberStore + RunStore + EventStore + CrashStore> FleetStore for T {}

/// Who may call, and what they did.
pub trait PeopleStore: UserStore + ApiKeyStore + AuditStore {}

impl<T: UserStore + ApiKeyStore + AuditStore> PeopleStore for T {}

/// What the vault keeps: ciphertext, and when what is to be done with it.
pub trait VaultStore: DataKeyStore + GrantStore + RefreshStore + SecretStore {}

impl<T: DataKeyStore + GrantStore + RefreshStore + SecretStore> VaultStore for T {}

/// Who may do what only one may do.
pub trait ClusterStore: LeaseStore + HostStore {}

impl<T: LeaseStore + HostStore> ClusterStore for T {}

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
/// [`Uncertain`](crate::Error::Uncertain) if a server's answer to a write was lost,
/// [`Corrupt`](crate::Error::Corrupt) if a row cannot be what was written.
///
/// # Cancel safety
/// A dropped call may still take effect, whole.
pub trait Store:
    FleetStore + PeopleStore + VaultStore + ClusterStore + WatchStore + UpkeepStore + MaintenanceStore
{
}

impl<T> Store for T where
    T: FleetStore
        + PeopleStore
        + VaultStore
        + ClusterStore
        + WatchStore
        + UpkeepStore
        + MaintenanceStore
{
}
