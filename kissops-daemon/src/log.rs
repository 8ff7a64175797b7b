//! The daemon's own log: on standard error, for people or as JSON, redacted, its level changed at run time (CTL-9).

use std::{io, str::FromStr as _, sync::Arc};

use anyhow::Context as _;
use kissops_core::{
    config::{DaemonLog, DaemonLogFormat},
    redact::Redactor,
};
use tracing_subscriber::{
    Registry, filter::Targets, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

/// A handle on the log.
pub(crate) struct Log {
    filter: reload::Handle<Targets, Registry>,
}

impl Log {
    /// Sends what the program says to standard error.
    pub(crate) fn start(wanted: &DaemonLog, redactor: &Arc<Redactor>) -> anyhow::Result<Self> {
        let filter = Targets::from_str(&wanted.level).context("daemon.log.level")?;
        let (filter, handle) = reload::Layer::new(filter);
        let redactor = Arc::clone(redactor);
        let writer = move || redactor.writer(io::stderr());
        let colours =
            io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
        let lines = fmt::layer().with_writer(writer).with_ansi(colours).with_target(false);
        let registry = tracing_subscriber::registry().with(filter);
        match wanted.format {
            DaemonLogFormat::Text => registry.with(lines).try_init(),
            DaemonLogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        }
        .context("start the log")?;
        Ok(Self { filter: handle })
    }

    /// Changes the level; one that cannot be understood was refused with the configuration.
    pub(crate) fn set_level(&self, level: &str) {
        if let Ok(filter) = Targets::from_str(level) {
            // Fails only when the log has ended.
            let _ = self.filter.reload(filter);
        }
    }
}
