//! [`Store`]: what must survive a restart, as typed records behind one small trait per concept.
//!
//! Two engines keep the same rules, `conformance::store` (feature `conformance`): [`sqlite`], one file and no server,
//! and [`postgres`]. A concept has its records and its trait in a module of its own, and its statements once for both
//! engines in `sql`.

mod api_keys;
mod audit;
#[cfg(all(feature = "sqlite", feature = "postgres"))]
mod copy;
mod crashes;
mod data_keys;
mod events;
mod grants;
mod hosts;
mod instances;
mod leases;
mod maintenance;
mod members;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod migrate;
#[cfg(feature = "postgres")]
pub mod postgres;
mod refreshes;
mod runs;
mod sealed;
mod secrets;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod url;
mod users;

#[cfg(all(feature = "sqlite", feature = "postgres"))]
pub use self::copy::{CopiedTable, CopyPhase, CopyProgress, CopyReport, copy};
pub use self::{
    api_keys::{
        API_KEY_USE_RESOLUTION, Access, ApiKeyId, ApiKeyRecord, ApiKeyStore, KeyHash, NewApiKey,
    },
    audit::{
        Actor, AuditEnds, AuditHash, AuditLink, AuditOutcome, AuditQuery, AuditRecord, AuditSeq,
        AuditStore, AuditVerdict, NewAudit, verify_audit,
    },
    crashes::{CrashQuery, CrashRecord, CrashReport, CrashStore},
    data_keys::{DataKeyRecord, DataKeyStore, KekId, NewDataKey},
    events::{EventKind, EventQuery, EventRecord, EventStore, NewEvent},
    grants::{
        Due, DueQuery, FailureClass, Generation, GrantExpiry, GrantFailure, GrantFlow, GrantId,
        GrantKey, GrantQuery, GrantRecord, GrantState, GrantStateName, GrantStatus, GrantStore,
        GrantVersion, NewGrant, SealedToken, TokenId, TokenKind,
    },
    hosts::{HostId, HostLease, HostRecord, HostSession, HostState, HostStore, NewHost},
    instances::{Desired, InstanceRecord, InstanceStore},
    leases::{Fence, FencingToken, HolderId, Lease, LeaseName, LeaseRecord, LeaseStore},
    maintenance::{CheckReport, MaintenanceStore, TableSize, VacuumReport},
    members::{MemberRecord, MemberStore},
    refreshes::{
        Landing, NewGeneration, NewRefresh, PreviousPair, RefreshPhase, RefreshRecord, RefreshStore,
    },
    runs::{RunEnd, RunRecord, RunStore},
    sealed::{DataKeyId, Sealed, SealedBy},
    secrets::{
        Fingerprint, NewSecret, SecretId, SecretRecord, SecretSource, SecretStore, SecretValue,
    },
    url::{StoreOptions, StoreUrl, open},
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
pub trait Store: FleetStore + PeopleStore + VaultStore + ClusterStore + MaintenanceStore {}

impl<T: FleetStore + PeopleStore + VaultStore + ClusterStore + MaintenanceStore> Store for T {}
