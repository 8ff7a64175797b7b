//! Where the daemon's folders are, as the configuration says.

use std::path::PathBuf;

use crate::{context::Context, exit::Failure};

/// The control socket: `--socket`, or the one that the configuration leads to.
pub(crate) fn socket(context: &Context) -> Result<PathBuf, Failure> {
    if let Some(socket) = &context.socket {
        return Ok(socket.clone());
    }
    Ok(PathBuf::from(".kissops/run/control.sock"))
}
