//! Keeps other programs and core dumps away from keys in memory.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

use crate::{Error, Result};

/// Makes this process leave no core dump and lets no other of the same user look into its memory. For programs that
/// are nobody else's: it changes the whole process, and children inherit the limit.
///
/// The hard limit stays, so that an instance can be given core dumps of its own by an unprivileged daemon.
///
/// # Errors
/// [`Error::Io`] if the system refuses.
pub fn harden_process() -> Result<()> {
    let none = Rlimit { current: Some(0), maximum: getrlimit(Resource::Core).maximum };
    setrlimit(Resource::Core, none).map_err(Error::io("forbid core dumps"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Error::io("shield memory"))
}
