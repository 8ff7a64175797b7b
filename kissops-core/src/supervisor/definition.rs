//! [`Definition`]: everything about one instance that an operator may decide.

use std::{collections::BTreeMap, fmt, num::NonZeroU32, path::PathBuf, time::Duration};

use serde::{Serialize, Serializer};

use crate::{
    Backoff, HumanDuration, Result,
    config::looks_secret,
    id::{InstanceName, stable_hash},
    logs::LogPolicy,
    redact::MASK,
    store::GrantKey,
    supervisor::{Signal, SignalTo, limits::Limits},
};

/// One long-running command (or a one-shot) that is kept alive: the effective definition, after defaults and templates.
///
/// It serializes to what `kissops check` prints: without any secret, and without values that are at their default, so that
/// a newer version with more keys computes the same [`fingerprint`](Self::fingerprint).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Definition {
    /// Its name.
    pub name: InstanceName,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// To be named by, together with others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Program and arguments, never a shell string; not empty.
    pub command: Vec<String>,
    /// The working directory, absolute.
    pub cwd: PathBuf,
    /// Environment on top of what the daemon passes on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "masked")]
    pub env: BTreeMap<String, EnvValue>,
    /// Files of `KEY=value` lines, absolute, read afresh at each start; later ones win, `env` wins over all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env_file: Vec<PathBuf>,
    /// User to run as, by name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Group to run as, by name or number; the user's own when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// File mode mask; serializes in octal, as the configuration has it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "octal")]
    pub umask: Option<u32>,
    /// Service or one-shot.
    #[serde(skip_serializing_if = "is_default")]
    pub kind: Kind,
    /// Whether it is to run before anybody has said so: the desired state of an instance seen for the first time.
    #[serde(skip_serializing_if = "is_true")]
    pub autostart: bool,
    /// When to start it again.
    #[serde(skip_serializing_if = "is_default")]
    pub restart: Restart,
    /// How long to wait before that.
    #[serde(skip_serializing_if = "is_default", serialize_with = "backoff_as_table")]
    pub backoff: Backoff,
    /// When to give up; `None` never does.
    #[serde(skip_serializing_if = "is_default_limit")]
    pub start_limit: Option<StartLimit>,
    /// How it tells that it may take work; running is ready where there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<Ready>,
    /// How it is told that it is stuck.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub live: Vec<Live>,
    /// How to stop it.
    #[serde(skip_serializing_if = "is_default")]
    pub stop: Stop,
    /// What `kissops reload NAME` sends.
    #[serde(skip_serializing_if = "is_hup")]
    pub reload_signal: Signal,
    /// Commands around its life.
    #[serde(skip_serializing_if = "is_default")]
    pub hooks: Hooks,
    /// What it may use.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// Instances that must be ready (one-shots: have succeeded) before it starts, and outlive it at a stop.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<InstanceName>,
    /// Instances that start before it if they start at all; it does not wait for those that failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<InstanceName>,
    /// What is kept of its output.
    #[serde(skip_serializing_if = "is_default")]
    pub logs: LogPolicy,
    /// A cron expression of planned restarts, in the zone of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_schedule: Option<String>,
    /// Grants whose access tokens it may read on its socket.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_texts")]
    pub tokens: Vec<GrantKey>,
    /// What becomes of it when one of them needs a new authorization.
    #[serde(skip_serializing_if = "is_default")]
    pub token_policy: TokenPolicy,
    /// Variables that get an access token, as it is at the start.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "by_variable")]
    pub token_env: BTreeMap<String, GrantKey>,
}

impl Definition {
    /// A definition with all defaults.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::Error::InvalidConfig) if the name breaks a rule of [`InstanceName::new`] or `command` is empty.
    pub fn new<S: Into<String>>(name: &str, command: impl IntoIterator<Item = S>) -> Result<Self> {
        let command: Vec<String> = command.into_iter().map(Into::into).collect();
        if command.first().is_none_or(String::is_empty) {
            return Err(crate::Error::invalid(
                format!("instance.{name}.command"),
                "must name a program",
            ));
        }
        Ok(Self {
            name: InstanceName::new(name)?,
            description: String::new(),
            tags: Vec::new(),
            command,
            cwd: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            env: BTreeMap::new(),
            env_file: Vec::new(),
            user: None,
            group: None,
            umask: None,
            kind: Kind::default(),
            autostart: true,
            restart: Restart::default(),
            backoff: Backoff::default(),
            start_limit: Some(StartLimit::default()),
            ready: None,
            live: Vec::new(),
            stop: Stop::default(),
            reload_signal: Signal::HUP,
            hooks: Hooks::default(),
            limits: Limits::default(),
            requires: Vec::new(),
            after: Vec::new(),
            logs: LogPolicy::default(),
            restart_schedule: None,
            tokens: Vec::new(),
            token_policy: TokenPolicy::default(),
            token_env: BTreeMap::new(),
        })
    }

    /// A number that changes when anything in the definition does, and is the same in every build of one format.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let shown = serde_json::to_vec(self).unwrap_or_default();
        // What is masked there counts by its value.
        stable_hash(std::iter::once(&*shown).chain(self.plain_secrets().map(str::as_bytes)))
    }

    /// Values of the environment that stand in clear in the configuration, under names of secrets.
    pub(crate) fn plain_secrets(&self) -> impl Iterator<Item = &str> {
        self.env.iter().filter_map(|(key, value)| match value {
            EnvValue::Plain(value) if looks_secret(key) => Some(value.as_str()),
            _ => None,
        })
    }

    /// One of its environment's values is in a file.
    pub(crate) fn has_secret_files(&self) -> bool {
        use SecretRef::{Credential, File};
        self.env.values().any(|value| matches!(value, EnvValue::Secret(File(_) | Credential(_))))
    }

    /// It says by itself when it is ready, or feeds a watchdog: it needs a `NOTIFY_SOCKET`.
    #[must_use]
    pub fn uses_notify(&self) -> bool {
        let by_ready = self.ready.as_ref().is_some_and(|ready| ready.check == ReadyCheck::Notify);
        by_ready || self.live.iter().any(|live| matches!(live.check, LiveCheck::Watchdog { .. }))
    }
}

/// What becomes of an instance when a grant of its is no longer refreshed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenPolicy {
    /// It is stopped once only the account's owner can help, and comes back when they have.
    #[default]
    Stop,
    /// It runs on, and is told by its socket.
    Run,
    /// As [`Stop`](Self::Stop), and also once refreshing has failed for three rounds.
    Strict,
}

/// A value of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    /// As it stands in the file.
    Plain(String),
    /// Looked up at each start, and redacted wherever it shows up.
    Secret(SecretRef),
}

/// Shows a value in clear only where its name is not that of a secret.
fn masked<S: Serializer>(env: &BTreeMap<String, EnvValue>, s: S) -> Result<S::Ok, S::Error> {
    let mask = EnvValue::Plain(MASK.to_owned());
    s.collect_map(env.iter().map(|(key, value)| match value {
        EnvValue::Plain(_) if looks_secret(key) => (key, &mask),
        _ => (key, value),
    }))
}

impl Serialize for EnvValue {
    /// A secret shows as `***` and where it comes from.
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(value) => s.serialize_str(value),
            Self::Secret(reference) => s.collect_str(&format_args!("*** ({reference})")),
        }
    }
}

/// Where a secret is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// In a variable of the daemon's environment (or of its `.env` file), which is not passed on to instances.
    Env(String),
    /// In a file, without its last line's end; refused if group or others may read it.
    File(PathBuf),
    /// In the vault, under this name.
    Secret(String),
    /// Handed to the daemon by systemd: the file of this name in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

impl fmt::Display for SecretRef {
    /// Where it is, which is no secret: `env NAME`, `file /path`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Secret(name) => write!(f, "secret {name}"),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

/// Whether the command is to run on or to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Runs until it is stopped.
    #[default]
    Service,
    /// Runs once and ends, such as a migration; others may require it to have succeeded.
    Oneshot,
}

/// When to start an instance again after its process has ended by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Restart {
    /// In general.
    pub policy: RestartPolicy,
    /// Exit codes that mean success, besides 0.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub success_exit_codes: Vec<i32>,
    /// Exit codes by which the bot asks to be restarted: at once, and not counted as a failure.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restart_exit_codes: Vec<i32>,
    /// Exit codes by which the bot asks to stay down.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop_exit_codes: Vec<i32>,
}

/// Which ends lead to a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Every end.
    #[default]
    Always,
    /// Every end but success.
    OnFailure,
    /// None.
    Never,
}

/// Giving up: so many starts within a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StartLimit {
    /// Most starts within the window.
    pub starts: NonZeroU32,
    /// The window.
    #[serde(serialize_with = "human")]
    pub within: Duration,
}

impl Default for StartLimit {
    /// Five starts within five minutes.
    fn default() -> Self {
        const STARTS: NonZeroU32 = NonZeroU32::new(5).expect("not zero");
        Self { starts: STARTS, within: Duration::from_mins(5) }
    }
}

/// Readiness: when the instance may take work.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ready {
    /// How it is found out.
    #[serde(flatten)]
    pub check: ReadyCheck,
    /// Not ready within this time is a failed start.
    #[serde(serialize_with = "human")]
    pub within: Duration,
}

impl Ready {
    /// The time-out where none is given.
    pub const WITHIN: Duration = Duration::from_mins(1);
}

/// How readiness is found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadyCheck {
    /// `READY=1` on its `NOTIFY_SOCKET`, see `sd_notify(3)`.
    #[serde(serialize_with = "yes")]
    Notify,
    /// A GET of this URL answers 200 to 399.
    Http(String),
    /// A TCP connection to this `host:port` is accepted.
    Tcp(String),
    /// A line of its output matches this regular expression.
    Log(String),
    /// This file (absolute) is written after the start.
    Heartbeat(PathBuf),
    /// It has run for so long.
    Delay(#[serde(serialize_with = "human")] Duration),
}

/// Liveness: whether the instance is stuck and should be restarted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Live {
    /// How it is found out.
    #[serde(flatten)]
    pub check: LiveCheck,
    /// So many failures in a row.
    pub failures: NonZeroU32,
}

/// How liveness is found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveCheck {
    /// `WATCHDOG=1` at least so often; one miss is enough.
    Watchdog {
        /// The longest silence.
        #[serde(serialize_with = "human")]
        every: Duration,
    },
    /// This file is no older than `max_age`. A JSON object in it may hold `"ok": false` or a time in `"at"`.
    Heartbeat {
        /// The file, absolute.
        path: PathBuf,
        /// The oldest that it may be.
        #[serde(serialize_with = "human")]
        max_age: Duration,
    },
    /// A GET answers 200 to 399.
    Http {
        /// The URL.
        url: String,
        /// How often.
        #[serde(serialize_with = "human")]
        every: Duration,
        /// The longest that one answer may take.
        #[serde(serialize_with = "human")]
        timeout: Duration,
    },
    /// A TCP connection is accepted.
    Tcp {
        /// `host:port`.
        address: String,
        /// How often.
        #[serde(serialize_with = "human")]
        every: Duration,
        /// The longest that it may take.
        #[serde(serialize_with = "human")]
        timeout: Duration,
    },
}

/// How to stop an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// Sent first.
    pub signal: Signal,
    /// Then, for what is left of the process tree, SIGKILL after so long.
    #[serde(serialize_with = "human")]
    pub grace: Duration,
    /// Who gets `signal`.
    pub to: SignalTo,
}

impl Default for Stop {
    /// SIGTERM to the main process, 30 s of grace.
    fn default() -> Self {
        Self { signal: Signal::TERM, grace: Duration::from_secs(30), to: SignalTo::Main }
    }
}

/// Commands around the life of an instance, each list run in order, in its environment and as its user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hooks {
    /// Before each start. A failure counts as a failed start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pre_start: Vec<Hook>,
    /// Once it is ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub post_start: Vec<Hook>,
    /// Before the stop signal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pre_stop: Vec<Hook>,
    /// After its process tree is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub post_stop: Vec<Hook>,
}

/// A command with a time limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hook {
    /// Program and arguments.
    pub command: Vec<String>,
    /// It and all that it started are killed after this, which is a failure.
    #[serde(serialize_with = "human")]
    pub timeout: Duration,
}

impl Hook {
    /// The time limit where none is given.
    pub const TIMEOUT: Duration = Duration::from_mins(1);
}

fn human<S: Serializer>(span: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&HumanDuration(*span))
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    clippy::ref_option,
    reason = "serde passes references"
)]
fn octal<S: Serializer>(mask: &Option<u32>, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&format_args!("{:03o}", mask.unwrap_or_default()))
}

fn as_texts<S: Serializer>(keys: &[GrantKey], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(keys.iter().map(ToString::to_string))
}

fn by_variable<S: Serializer>(
    variables: &BTreeMap<String, GrantKey>,
    s: S,
) -> Result<S::Ok, S::Error> {
    s.collect_map(variables.iter().map(|(name, key)| (name, key.to_string())))
}

/// `notify = true`, as the configuration has it.
fn yes<S: Serializer>(s: S) -> Result<S::Ok, S::Error> {
    s.serialize_bool(true)
}

fn backoff_as_table<S: Serializer>(backoff: &Backoff, s: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeStruct as _;
    let mut table = s.serialize_struct("Backoff", 5)?;
    table.serialize_field("base", &HumanDuration(backoff.base()))?;
    table.serialize_field("factor", &backoff.factor())?;
    table.serialize_field("cap", &HumanDuration(backoff.cap()))?;
    let full = backoff.jitter() == crate::backoff::Jitter::Full;
    table.serialize_field("jitter", if full { "full" } else { "none" })?;
    table.serialize_field("reset_after", &HumanDuration(backoff.reset_after()))?;
    table.end()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_true(value: &bool) -> bool {
    *value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_hup(value: &Signal) -> bool {
    *value == Signal::HUP
}

#[expect(clippy::ref_option, reason = "serde passes references")]
fn is_default_limit(value: &Option<StartLimit>) -> bool {
    *value == Some(StartLimit::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_covers_what_is_set_and_nothing_else() {
        let mut one = Definition::new("bot", ["python3", "bot.py"]).unwrap();
        one.cwd = "/opt".into();
        // A constant: it must not change from build to build, or an upgrade would restart every bot.
        assert_eq!(
            serde_json::to_string(&one).unwrap(),
            r#"{"name":"bot","command":["python3","bot.py"],"cwd":"/opt"}"#
        );
        let two = Definition { umask: Some(0o27), ..one.clone() };
        assert_ne!(one.fingerprint(), two.fingerprint());
    }

    #[test]
    fn it_is_shown_in_the_words_of_the_configuration() {
        let mut one = Definition::new("bot", ["bot"]).unwrap();
        one.umask = Some(0o27);
        one.ready = Some(Ready { check: ReadyCheck::Notify, within: Duration::from_secs(20) });
        let shown = serde_json::to_value(&one).unwrap();
        assert_eq!(shown["umask"], "027");
        assert_eq!(shown["ready"], serde_json::json!({"notify": true, "within": "20s"}));
    }

    #[test]
    fn sup_22_a_secret_in_clear_is_not_shown_and_counts_all_the_same() {
        let mut one = Definition::new("bot", ["python3", "bot.py"]).unwrap();
        one.env.insert("BOT_TOKEN".into(), EnvValue::Plain("hunter2".into()));
        one.env.insert("MODE".into(), EnvValue::Plain("fast".into()));
        let shown = serde_json::to_value(&one).unwrap();
        assert_eq!(shown["env"], serde_json::json!({"BOT_TOKEN": "***", "MODE": "fast"}));
        let mut two = one.clone();
        two.env.insert("BOT_TOKEN".into(), EnvValue::Plain("hunter3".into()));
        assert_ne!(one.fingerprint(), two.fingerprint());
        assert_eq!(serde_json::to_value(&two).unwrap(), shown);
    }
}
