//! Keeps instances alive: one owning task each, a handle that sends it controls.

mod cgroup;
mod definition;
mod direct;
pub mod keeper;
mod keeper_client;
pub mod limits;
mod plan;
mod procfs;
mod signal;
mod spawn;
mod state;
mod status;
mod sys;
pub mod tree;
pub mod user;
mod wire;

pub use cgroup::{Cgroup, CgroupRoot};
pub use definition::{
    Definition, EnvValue, Hook, Hooks, Kind, Live, LiveCheck, Ready, ReadyCheck, Restart,
    RestartPolicy, SecretRef, StartLimit, Stop,
};
pub use direct::DirectSpawn;
pub use keeper_client::{KeeperClient, KeeperOptions, OrphanExit};
pub use plan::RUN_MARK;
pub use signal::Signal;
pub use spawn::{
    Credentials, ExitStatus, Exited, Launch, ResourceUse, SignalTo, Spawn, Started, Survivor,
};
pub use state::StateName;
pub use status::{InstanceStatus, LastExit};
