//! Keeps instances alive: one owning task each, a handle that sends it controls.

mod definition;
pub mod limits;
pub mod select;
mod signal;
mod spawn;
mod state;
mod status;

pub use definition::{
    Definition, EnvValue, Hook, Hooks, Kind, Live, LiveCheck, Ready, ReadyCheck, Restart,
    RestartPolicy, SecretRef, StartLimit, Stop,
};
pub use signal::Signal;
pub use spawn::{
    Credentials, ExitStatus, Exited, Launch, ResourceUse, SignalTo, Spawn, Started, Survivor,
};
pub use state::StateName;
pub use status::{InstanceStatus, LastExit};
