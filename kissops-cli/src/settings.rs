//! What the configuration says about where the daemon is.

use std::path::PathBuf;

use kissops_core::{
    config::{self, ConfigErrors, DaemonConfig, Environment},
    control::SOCKET_NAME,
};

use crate::{context::Context, exit::Failure};

/// The configuration file that is meant.
pub(crate) fn file(context: &Context) -> Result<PathBuf, Failure> {
    config::find(context.config.as_deref()).map_err(|errors| failure(&errors))
}

/// `[daemon]` alone: a running daemon can be asked also while the rest of its file is being mended.
pub(crate) fn daemon(context: &Context) -> Result<DaemonConfig, Failure> {
    let environment = Environment::of_process();
    config::load_daemon(&file(context)?, &environment).map_err(|errors| failure(&errors))
}

/// The control socket: `--socket`, or the one that the configuration leads to.
pub(crate) fn socket(context: &Context) -> Result<PathBuf, Failure> {
    match &context.socket {
        Some(socket) => Ok(socket.clone()),
        None => Ok(daemon(context)?.runtime_dir.join(SOCKET_NAME)),
    }
}

/// The errors of a configuration as a failure: the first one, and the command that shows all.
pub(crate) fn failure(errors: &ConfigErrors) -> Failure {
    let (message, help) = match errors.errors() {
        // Its message names the places itself.
        [only] if only.line == 0 && only.key.is_empty() && !only.help.is_empty() => {
            let named = only.message.contains(&*only.file.to_string_lossy());
            let file = if named { String::new() } else { format!("{}: ", only.file.display()) };
            (format!("{file}{}", only.message), only.help.clone())
        }
        _ => (errors.to_string(), "kissops check shows all of it".to_owned()),
    };
    Failure::new("invalid_config", message, help)
}
