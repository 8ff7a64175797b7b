//! Does the chain still hold?

use super::{AuditLink, AuditQuery, AuditRecord, AuditSeq, AuditStore};
use crate::Result;

/// Entries that are read at once.
const PAGE: u32 = 500;

/// What [`verify_audit`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditVerdict {
    /// The chain holds.
    Intact {
        /// How many entries were checked.
        entries: u64,
        /// The last of them.
        last: AuditLink,
    },
    /// It does not.
    Broken {
        /// At this entry.
        at: AuditSeq,
        /// What is wrong there, for people.
        why: String,
    },
}

/// Checks the entries after `after` (`None`: all that are there), up to the newest at the time of the call. Entries may
/// be appended and pruned meanwhile.
///
/// `after` also must still be what the store says of it: give the newest link of an earlier check, kept elsewhere.
///
/// # Errors
/// As for reading.
pub async fn verify_audit(
    store: &dyn AuditStore,
    after: Option<&AuditLink>,
) -> Result<AuditVerdict> {
    let ends = store.audit_ends().await?;
    let mut check = Check { last: ends.pruned, entries: 0 };
    if let Some(known) = after
        && let Some(why) = check.start(store, known).await?
    {
        return Ok(AuditVerdict::Broken { at: known.seq, why });
    }
    while check.last.seq < ends.newest.seq {
        let records = store.audit(page(check.last.seq, PAGE)).await?;
        let pruned = store.audit_ends().await?.pruned;
        if pruned.seq > check.last.seq {
            // They were good until they went; what follows hangs on the end that pruning left.
            check.last = pruned;
            continue;
        }
        if records.is_empty() {
            return Ok(check.broken("it is missing, and so are all after it"));
        }
        for record in records.iter().take_while(|record| record.link.seq <= ends.newest.seq) {
            if let Some(why) = check.step(record) {
                return Ok(check.broken(why));
            }
        }
    }
    if check.last.seq == ends.newest.seq && check.last.hash != ends.newest.hash {
        let why = "it is not the entry that was appended last".to_owned();
        return Ok(AuditVerdict::Broken { at: ends.newest.seq, why });
    }
    Ok(AuditVerdict::Intact { entries: check.entries, last: check.last })
}

fn page(after: AuditSeq, limit: u32) -> AuditQuery {
    AuditQuery { after: Some(after), limit, ..AuditQuery::default() }
}

struct Check {
    /// The last good link.
    last: AuditLink,
    entries: u64,
}

impl Check {
    /// Begins after `known` instead; says what is wrong with that.
    async fn start(&mut self, store: &dyn AuditStore, known: &AuditLink) -> Result<Option<String>> {
        if known.seq < self.last.seq {
            // It was pruned since: the end that pruning left is the earliest there is.
            return Ok(None);
        }
        if known.seq > self.last.seq {
            let before = AuditSeq(known.seq.0 - 1);
            let found = store.audit(page(before, 1)).await?;
            let Some(record) = found.first().filter(|record| record.link.seq == known.seq) else {
                return Ok(Some("it is missing".into()));
            };
            self.last = record.link.clone();
        }
        let same = self.last.hash == known.hash;
        Ok((!same).then(|| "its hash is not the one that was known".into()))
    }

    /// Goes on to `record`; says what is wrong with it.
    fn step(&mut self, record: &AuditRecord) -> Option<&'static str> {
        if record.link.seq.0 != self.last.seq.0 + 1 {
            return Some("it is missing");
        }
        if record.link.hash != self.last.hash.next(&record.entry.digest()) {
            return Some("it, or the one before it, was changed");
        }
        self.last = record.link.clone();
        self.entries += 1;
        None
    }

    fn broken(&self, why: &str) -> AuditVerdict {
        AuditVerdict::Broken { at: AuditSeq(self.last.seq.0 + 1), why: why.into() }
    }
}
