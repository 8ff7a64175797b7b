//! Who did what: append only, each entry chained to the one before by its hash.
//!
//! An entry's hash is `SHA-256(hash of the entry before ‖ digest)`, both as lower-case hexadecimal text; before the
//! first there is the empty text. The digest is that of the entry's fields, see [`NewAudit::digest`].

use std::{fmt, fmt::Write as _};

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};

use crate::{Result, Timestamp, id::InstanceName};

mod verify;

pub use verify::{AuditVerdict, verify_audit};

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// The program by itself; the text names the part.
    System(String),
    /// A user, by name.
    User(String),
    /// The bearer of an API key, by the key's name.
    ApiKey(String),
    /// A process on this machine, by its user id.
    Uid(u32),
    /// A bot.
    Instance(InstanceName),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AuditOutcome {
    /// It was done.
    Done,
    /// It was not allowed, and why.
    Refused(String),
    /// It was tried, and why it did not work.
    Failed(String),
}

/// Something to be recorded. Free of secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAudit {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What, by a stable word: `instance.stop`, `secret.reveal`.
    pub action: String,
    /// On what: `instance web`, `grant twitch/el_serda`.
    pub target: String,
    /// From where: an address, `control.sock`.
    pub origin: String,
    /// What came of it.
    pub outcome: AuditOutcome,
}

impl NewAudit {
    /// SHA-256 over the fields as they are stored, each after its length (8 bytes, big endian), as hexadecimal text.
    #[must_use]
    pub fn digest(&self) -> String {
        let (actor_kind, actor) = self.actor.columns();
        let (outcome, reason) = self.outcome.columns();
        let mut sha = Sha256::new();
        let mut add = |bytes: &[u8]| {
            sha.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            sha.update(bytes);
        };
        add(b"kissops audit 1");
        add(&self.at.0.to_be_bytes());
        let fields =
            [actor_kind, &actor, &self.action, &self.target, &self.origin, outcome, reason];
        for field in fields {
            // As a store keeps it.
            add(field.replace('\0', "\u{fffd}").as_bytes());
        }
        hex(&sha.finalize())
    }
}

impl Actor {
    /// Its kind as a word, and its name.
    pub(super) fn columns(&self) -> (&'static str, String) {
        match self {
            Self::System(part) => ("system", part.clone()),
            Self::User(name) => ("user", name.clone()),
            Self::ApiKey(name) => ("api_key", name.clone()),
            Self::Uid(uid) => ("uid", uid.to_string()),
            Self::Instance(name) => ("instance", name.to_string()),
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = self.columns();
        write!(f, "{kind} {name}")
    }
}

impl AuditOutcome {
    /// Its word, and the reason.
    pub(super) fn columns(&self) -> (&'static str, &str) {
        match self {
            Self::Done => ("done", ""),
            Self::Refused(why) => ("refused", why),
            Self::Failed(why) => ("failed", why),
        }
    }
}

/// The place of an entry in the chain, counted from 1 without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditSeq(pub u64);

/// An entry's hash as hexadecimal text; empty before the first entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AuditHash(pub String);

impl AuditHash {
    /// The hash of an entry with that digest after this one.
    #[must_use]
    pub fn next(&self, digest: &str) -> Self {
        let mut sha = Sha256::new();
        sha.update(self.0.as_bytes());
        sha.update(digest.as_bytes());
        Self(hex(&sha.finalize()))
    }
}

/// An entry of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Where it stands, and its hash.
    pub link: AuditLink,
    /// What happened.
    pub entry: NewAudit,
}

/// One link of the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditLink {
    /// Which entry.
    pub seq: AuditSeq,
    /// Its hash.
    pub hash: AuditHash,
}

/// Both ends of the chain. Kept elsewhere too (a backup, a log on another host), `newest` shows later that nothing
/// before it was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditEnds {
    /// The newest entry; number 0 before the first.
    pub newest: AuditLink,
    /// The newest of those that were pruned; number 0 if none was.
    pub pruned: AuditLink,
}

/// Which entries to read.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Only of this actor.
    pub actor: Option<Actor>,
    /// Only this action.
    pub action: Option<String>,
    /// Only on this.
    pub target: Option<String>,
    /// Only at or after this time.
    pub since: Option<Timestamp>,
    /// Only before this time.
    pub until: Option<Timestamp>,
    /// Only after this entry, oldest first. Without it: the latest ones.
    pub after: Option<AuditSeq>,
    /// At most so many.
    pub limit: u32,
}

/// The audit.
#[async_trait]
pub trait AuditStore: fmt::Debug + Send + Sync + 'static {
    /// Records entries in the order given, all or none. What is to be audited must not happen where this fails.
    ///
    /// After [`Uncertain`](crate::Error::Uncertain) they may be there all the same: a second call may record them twice,
    /// which an audit bears better than a gap.
    async fn append_audit(&self, entries: Vec<NewAudit>) -> Result<Vec<AuditSeq>>;

    /// Reads entries in the order of the chain. Without `after`: the latest `limit`, still oldest first.
    async fn audit(&self, query: AuditQuery) -> Result<Vec<AuditRecord>>;

    /// Both ends of the chain.
    async fn audit_ends(&self) -> Result<AuditEnds>;

    /// Removes entries older than `before` from the oldest end, up to the first that is not older, and at most `limit`;
    /// says how many. The chain still verifies.
    async fn prune_audit(&self, before: Timestamp, limit: u32) -> Result<u64>;
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// SHA-256 of a text, as hexadecimal text: what an engine without such a function of its own gives its statements.
#[cfg(feature = "sqlite")]
pub(super) fn sha256_hex(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> NewAudit {
        NewAudit {
            at: Timestamp(1_790_000_000_000_001),
            actor: Actor::User("ada".into()),
            action: "instance.stop".into(),
            target: "instance web".into(),
            origin: "control.sock".into(),
            outcome: AuditOutcome::Done,
        }
    }

    /// The chains of databases that are in use hang on it.
    #[test]
    fn the_format_of_a_link_stays_as_it_is() {
        let digest = entry().digest();
        assert_eq!(digest, "521248eb72b48bd741beb6f9d2f1ae83837daaeb0fe365e747f5e3d667567cca");
        assert_eq!(
            AuditHash::default().next(&digest).next(&digest).0,
            "a054812e46c714874c334d599c9a1f96dd092ca55d224140cfa562e6e4b634b7"
        );
    }

    #[test]
    fn a_digest_covers_every_field() {
        let edits: [fn(&mut NewAudit); 7] = [
            |e| e.at = Timestamp(1_790_000_000_000_002),
            |e| e.actor = Actor::ApiKey("ada".into()),
            |e| e.actor = Actor::User("bob".into()),
            |e| e.action = "instance.start".into(),
            |e| e.target = "instance web2".into(),
            |e| e.origin = "127.0.0.1".into(),
            |e| e.outcome = AuditOutcome::Refused(String::new()),
        ];
        for (i, change) in edits.into_iter().enumerate() {
            let mut changed = entry();
            change(&mut changed);
            assert_ne!(changed.digest(), entry().digest(), "{i}");
        }
    }

    /// Moving a letter from one field into the next is a change.
    #[test]
    fn fields_do_not_run_into_each_other() {
        let one = NewAudit { action: "ab".into(), target: "c".into(), ..entry() };
        let other = NewAudit { action: "a".into(), target: "bc".into(), ..entry() };
        assert_ne!(one.digest(), other.digest());
    }
}
