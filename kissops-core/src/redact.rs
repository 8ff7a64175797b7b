//! Keeps secrets out of logs: [`Redactor`] learns them, [`Masks`] replaces them by `***`.
//!
//! A secret is found as it is, JSON-escaped, percent-encoded and base64-encoded (both alphabets, at any of the three
//! alignments within a longer text). Secrets shorter than [`SHORTEST`] bytes are not masked: they would mask ordinary
//! words. A secret of several lines, such as a PEM key, is masked by each line of at least [`SHORTEST_LINE`] bytes,
//! because output is treated line by line.
//!
//! The first few dozen secrets are looked for by an automaton, which is fastest and is made anew for each. All others,
//! and those that are known for a time only, are looked for by hash: a token more among 100,000 costs microseconds.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use secrecy::{ExposeSecret, SecretString};

use crate::Timestamp;

mod forms;
mod table;
mod writer;

pub use writer::RedactingWriter;

use table::{FOR_EVER, LONGEST_HASHED, SHORTEST_HASHED, Table};

/// What stands in the place of a secret.
pub const MASK: &str = "***";
/// Shorter secrets are not masked.
pub const SHORTEST: usize = 4;
/// Shorter lines of a secret of several lines are not masked.
pub const SHORTEST_LINE: usize = 8;
/// Beyond this many bytes of patterns, only those go to the automaton that are too short to be found otherwise; and it
/// becomes the compact one: half as fast, a tenth of the memory.
const FAST_LIMIT: usize = 16 << 10;

/// Learns secrets, and hands out [`Masks`] that know them. Held as `Arc<Redactor>`; shared by all that writes text.
#[derive(Default)]
pub struct Redactor {
    generation: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// What the automaton is made of, and how many bytes that is.
    fast: BTreeSet<Vec<u8>>,
    fast_bytes: usize,
    automaton: Option<AhoCorasick>,
    table: Table,
    masks: Arc<Masks>,
}

impl Redactor {
    /// A redactor that knows no secret yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds secrets; what was learned before stays known, because old values may still be printed.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::Error::InvalidConfig) if there are more secrets than can be searched for at once
    /// (millions of bytes of very short or very long ones); those known before stay masked.
    pub fn learn(&self, secrets: impl IntoIterator<Item = SecretString>) -> crate::Result<()> {
        self.add(secrets, FOR_EVER)
    }

    /// Adds secrets that need not be known after `until`, to the second: tokens, which are worth nothing once they have
    /// expired. [`forget`](Self::forget) drops them then; that of a secret shorter than 9 bytes may never be dropped.
    /// Learning one again can only make it stay longer.
    ///
    /// # Errors
    /// As [`learn`](Self::learn).
    pub fn learn_until(
        &self,
        secrets: impl IntoIterator<Item = SecretString>,
        until: Timestamp,
    ) -> crate::Result<()> {
        self.add(secrets, seconds(until).saturating_add(1).min(FOR_EVER - 1))
    }

    fn add(
        &self,
        secrets: impl IntoIterator<Item = SecretString>,
        until: u32,
    ) -> crate::Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.add(secrets, until)? {
            self.renew(&mut inner);
        }
        Ok(())
    }

    /// Drops the secrets that were to be known until a time before `now`. To be called now and then; it takes some
    /// milliseconds for 100,000 tokens, nothing where nothing is due.
    pub fn forget(&self, now: Timestamp) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.table.forget(seconds(now)) {
            self.renew(&mut inner);
        }
    }

    fn renew(&self, inner: &mut Inner) {
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        inner.masks = Arc::new(inner.masks(generation));
        self.generation.store(generation, Ordering::Release);
    }

    /// A snapshot of what is known now. Cheap: no copy.
    #[must_use]
    pub fn current(&self) -> Arc<Masks> {
        Arc::clone(&self.inner.lock().unwrap_or_else(PoisonError::into_inner).masks)
    }

    /// Grows whenever a secret was learned or forgotten; the same number means the same [`Masks`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A writer that masks whole lines on their way to `out`. Suits a `tracing` subscriber:
    /// `with_writer(move || redactor.writer(io::stderr()))`.
    pub fn writer<W: io::Write>(self: &Arc<Self>, out: W) -> RedactingWriter<W> {
        RedactingWriter::new(Arc::clone(self), out)
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").field("masks", &self.current()).finish()
    }
}

impl Inner {
    /// Says whether one of them was new.
    fn add(
        &mut self,
        secrets: impl IntoIterator<Item = SecretString>,
        until: u32,
    ) -> crate::Result<bool> {
        let mut fast = BTreeSet::new();
        let (mut fast_bytes, mut hashed) = (self.fast_bytes, false);
        for secret in secrets {
            for form in forms::of(secret.expose_secret()) {
                if self.fast.contains(&form) || fast.contains(&form) {
                    continue;
                }
                let fits = until == FOR_EVER && fast_bytes + form.len() <= FAST_LIMIT;
                if fits || !(SHORTEST_HASHED..=LONGEST_HASHED).contains(&form.len()) {
                    fast_bytes += form.len();
                    fast.insert(form);
                } else {
                    hashed |= self.table.insert(&form, until);
                }
            }
        }
        if fast.is_empty() {
            return Ok(hashed);
        }
        let automaton = automaton(self.fast.iter().chain(&fast), fast_bytes)?;
        self.automaton = Some(automaton);
        self.fast.extend(fast);
        self.fast_bytes = fast_bytes;
        Ok(true)
    }

    fn masks(&self, generation: u64) -> Masks {
        let longest = self.fast.iter().map(Vec::len).max().unwrap_or(0);
        Masks {
            automaton: self.automaton.clone(),
            table: (self.table.len() > 0).then(|| self.table.clone()),
            longest: longest.max(self.table.longest()),
            patterns: self.fast.len() + self.table.len(),
            generation,
        }
    }
}

fn automaton<'a>(
    patterns: impl Iterator<Item = &'a Vec<u8>>,
    bytes: usize,
) -> crate::Result<AhoCorasick> {
    let kind =
        if bytes <= FAST_LIMIT { AhoCorasickKind::DFA } else { AhoCorasickKind::ContiguousNFA };
    AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .kind(Some(kind))
        .build(patterns)
        .map_err(|_| {
            crate::Error::invalid("secrets", "are too many or too long to be masked in logs")
        })
}

fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.0.div_euclid(1_000_000).max(0)).unwrap_or(FOR_EVER)
}

/// The secrets known at one moment, ready to be found.
#[derive(Default)]
pub struct Masks {
    automaton: Option<AhoCorasick>,
    table: Option<Table>,
    longest: usize,
    patterns: usize,
    generation: u64,
}

impl Masks {
    /// No secret is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.automaton.is_none() && self.table.is_none()
    }

    /// Length in bytes of the longest text that is looked for; 0 if none is.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Which state of the [`Redactor`] this is.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Puts the places of all secrets in `text` into `found`, in order, without overlaps, as start and end.
    pub fn find(&self, text: &[u8], found: &mut Vec<(usize, usize)>) {
        found.clear();
        if let Some(automaton) = &self.automaton {
            found.extend(automaton.find_iter(text).map(|hit| (hit.start(), hit.end())));
        }
        if let Some(table) = &self.table {
            let before = found.len();
            table.find(text, found);
            if found.len() > before {
                unite(found);
            }
        }
    }

    /// `text` with each secret replaced.
    #[must_use]
    pub fn mask<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let mut found = Vec::new();
        self.find(text, &mut found);
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut out = Vec::with_capacity(text.len());
        let mut from = 0;
        for (start, end) in found {
            out.extend_from_slice(text.get(from..start).unwrap_or_default());
            out.extend_from_slice(MASK.as_bytes());
            from = end;
        }
        out.extend_from_slice(text.get(from..).unwrap_or_default());
        Cow::Owned(out)
    }

    /// `text` with each secret replaced.
    #[must_use]
    pub fn mask_str<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.mask(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            // A secret is whole characters, so what is left is too; lossy only to need no `unwrap`.
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }
}

/// Puts places in order and makes one of those that overlap. Neighbours stay two.
fn unite(found: &mut Vec<(usize, usize)>) {
    found.sort_unstable();
    found.dedup_by(|later, earlier| {
        let overlap = later.0 < earlier.1;
        if overlap {
            earlier.1 = earlier.1.max(later.1);
        }
        overlap
    });
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masks")
            .field("patterns", &self.patterns)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use base64::{Engine as _, prelude::BASE64_STANDARD};

    use super::*;

    const DUE: Timestamp = Timestamp(1_800_000_000_000_000);

    fn token(nth: usize) -> SecretString {
        let mixed = (nth as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("{mixed:016x}{:014x}", mixed.rotate_left(23) >> 8).into()
    }

    fn masked(redactor: &Redactor, text: &str) -> String {
        redactor.current().mask_str(text).into_owned()
    }

    #[test]
    fn a_token_is_known_until_its_time_and_its_snapshots_for_ever() {
        let redactor = Redactor::new();
        redactor.learn(["always-secret".to_owned().into()]).unwrap();
        redactor.learn_until([token(1), token(2)], DUE).unwrap();
        redactor.learn_until([token(2)], DUE.plus(Duration::from_mins(1))).unwrap();
        let (one, two) = (token(1), token(2));
        let text = format!("always-secret {} {}", one.expose_secret(), two.expose_secret());
        assert_eq!(masked(&redactor, &text), "*** *** ***");
        let (old, generation) = (redactor.current(), redactor.generation());
        redactor.forget(DUE);
        assert_eq!(
            (redactor.generation(), masked(&redactor, &text).as_str()),
            (generation, "*** *** ***")
        );
        redactor.forget(DUE.plus(Duration::from_secs(2)));
        assert!(redactor.generation() > generation);
        assert_eq!(masked(&redactor, &text), format!("*** {} ***", one.expose_secret()));
        assert_eq!(old.mask_str(&text), "*** *** ***");
        redactor.forget(DUE.plus(Duration::from_hours(1)));
        let lasting = Redactor::new();
        lasting.learn(["always-secret".to_owned().into()]).unwrap();
        assert_eq!(redactor.current().longest(), lasting.current().longest());
    }

    #[test]
    fn what_is_also_a_lasting_secret_is_never_forgotten() {
        let redactor = Redactor::new();
        redactor.learn_until([token(1)], DUE).unwrap();
        redactor.learn([token(1)]).unwrap();
        redactor.forget(DUE.plus(Duration::from_hours(1)));
        assert_eq!(masked(&redactor, token(1).expose_secret()), "***");
    }

    /// Beyond what the automaton takes, nothing changes but the cost.
    #[test]
    fn thousands_of_lasting_secrets_are_found_in_every_form() {
        let redactor = Redactor::new();
        redactor.learn((0..3_000).map(token)).unwrap();
        for nth in [0, 1, 1_500, 2_999] {
            let token = token(nth);
            let token = token.expose_secret();
            assert_eq!(masked(&redactor, &format!("<{token}>")), "<***>");
            for user in ["", "x", "xy"] {
                let hidden = masked(&redactor, &BASE64_STANDARD.encode(format!("{user}:{token}")));
                assert!(hidden.contains("***") && hidden.len() < 14, "{hidden}");
            }
        }
    }

    #[test]
    fn overlaps_of_both_kinds_become_one_mask() {
        let redactor = Redactor::new();
        redactor.learn(["lasting-secret".to_owned().into()]).unwrap();
        redactor.learn_until(["secret-passing".to_owned().into()], DUE).unwrap();
        assert_eq!(masked(&redactor, "a lasting-secret-passing b"), "a *** b");
        assert_eq!(masked(&redactor, "lasting-secretsecret-passing"), "******");
    }

    /// `cargo test -p kissops-core --lib redact -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn what_one_token_more_costs() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
            pages * rustix::param::page_size() / 1024
        };
        let redactor = Redactor::new();
        let (before, begun) = (resident(), Instant::now());
        redactor.learn_until((0..100_000).map(token), DUE).unwrap();
        println!("100,000 at once: {:?}, {} KiB", begun.elapsed(), resident() - before);
        let mut held = redactor.current();
        let mut worst = Duration::ZERO;
        let begun = Instant::now();
        for nth in 100_000..110_000 {
            let one = Instant::now();
            redactor.learn_until([token(nth)], DUE).unwrap();
            held = redactor.current();
            worst = worst.max(one.elapsed());
        }
        println!(
            "one more: {:?}, at worst {worst:?}; {} KiB",
            begun.elapsed() / 10_000,
            resident() - before
        );
        let text = "2026-11-20T03:04:05.000006Z INFO an ordinary line of output of a bot, with 100 characters in it\n".repeat(20_000);
        let begun = Instant::now();
        assert!(matches!(held.mask(text.as_bytes()), Cow::Borrowed(_)));
        println!("{} bytes searched in {:?}", text.len(), begun.elapsed());
        let begun = Instant::now();
        redactor.forget(DUE.plus(Duration::from_hours(1)));
        println!("all forgotten in {:?}", begun.elapsed());
    }
}
