//! [`Store`]: what must survive a restart, as typed records behind one small trait per concept.
//!
//! Two engines keep the same rules, `conformance::store` (feature `conformance`): [`sqlite`], one file and no server,
//! and [`postgres`]. A concept has its records and its trait in a module of its own, and its statements once for both
//! engines in `sql`.

#[cfg(all(feature = "sqlite", feature = "postgres"))]
mod copy;
mod crashes;
mod events;
mod instances;
mod maintenance;
mod members;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod migrate;
#[cfg(feature = "postgres")]
pub mod postgres;
mod runs;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod url;

#[cfg(all(feature = "sqlite", feature = "postgres"))]
pub use self::copy::{CopiedTable, CopyPhase, CopyProgress, CopyReport, copy};
pub use self::{
    crashes::{CrashQuery, CrashRecord, CrashReport, CrashStore},
    events::{EventKind, EventQuery, EventRecord, EventStore, NewEvent},
    instances::{Desired, InstanceRecord, InstanceStore},
    maintenance::{CheckReport, MaintenanceStore, TableSize, VacuumReport},
    members::{MemberRecord, MemberStore},
    runs::{RunEnd, RunRecord, RunStore},
    url::{StoreOptions, StoreUrl, open},
};

/// What a supervisor and its fleet keep.
pub trait FleetStore: InstanceStore + MemberStore + RunStore + EventStore + CrashStore {}

impl<T: InstanceStore + MemberStore + RunStore + EventStore + CrashStore> FleetStore for T {}

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
pub trait Store: FleetStore + MaintenanceStore {}

impl<T: FleetStore + MaintenanceStore> Store for T {}
