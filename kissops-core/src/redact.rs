//! Keeps secrets out of logs: [`Redactor`] learns them, [`Masks`] replaces them by `***`.
//!
//! A secret is found as it is, JSON-escaped, percent-encoded and base64-encoded (both alphabets, at any of the three
//! alignments within a longer text). Secrets shorter than [`SHORTEST`] bytes are not masked: they would mask ordinary
//! words. A secret of several lines, such as a PEM key, is masked by each line of at least [`SHORTEST_LINE`] bytes,
//! because output is treated line by line.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fmt::{self, Write as _},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use secrecy::{ExposeSecret, SecretString};

/// What stands in the place of a secret.
pub const MASK: &str = "***";
/// Shorter secrets are not masked.
pub const SHORTEST: usize = 4;
/// Shorter lines of a secret of several lines are not masked.
pub const SHORTEST_LINE: usize = 8;
/// Shorter pieces of base64 text are not looked for: they occur by chance.
const SHORTEST_BASE64: usize = 8;
/// Beyond this many bytes of patterns, the automaton is the compact one: half as fast, a tenth of the memory.
const FAST_LIMIT: usize = 16 << 10;

/// Learns secrets, and hands out [`Masks`] that know them. Held as `Arc<Redactor>`; shared by all that writes text.
#[derive(Default)]
pub struct Redactor {
    generation: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    patterns: BTreeSet<Vec<u8>>,
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
    /// (millions of bytes of them); those known before stay masked.
    pub fn learn(&self, secrets: impl IntoIterator<Item = SecretString>) -> crate::Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let before = inner.patterns.len();
        for secret in secrets {
            add_forms(secret.expose_secret(), &mut inner.patterns);
        }
        if inner.patterns.len() == before {
            return Ok(());
        }
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        inner.masks = Arc::new(Masks::new(&inner.patterns, generation)?);
        self.generation.store(generation, Ordering::Release);
        Ok(())
    }

    /// A snapshot of what is known now. Cheap: no copy.
    #[must_use]
    pub fn current(&self) -> Arc<Masks> {
        Arc::clone(&self.inner.lock().unwrap_or_else(PoisonError::into_inner).masks)
    }

    /// Grows whenever a secret was learned; the same number means the same [`Masks`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A writer that masks whole lines on their way to `out`. Suits a `tracing` subscriber:
    /// `with_writer(move || redactor.writer(io::stderr()))`.
    pub fn writer<W: io::Write>(self: &Arc<Self>, out: W) -> RedactingWriter<W> {
        RedactingWriter { redactor: Arc::clone(self), held: Vec::new(), out }
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").field("masks", &self.current()).finish()
    }
}

/// The secrets known at one moment, ready to be found.
#[derive(Default)]
pub struct Masks {
    automaton: Option<AhoCorasick>,
    longest: usize,
    patterns: usize,
    generation: u64,
}

impl Masks {
    fn new(patterns: &BTreeSet<Vec<u8>>, generation: u64) -> crate::Result<Self> {
        let bytes: usize = patterns.iter().map(Vec::len).sum();
        let kind =
            if bytes <= FAST_LIMIT { AhoCorasickKind::DFA } else { AhoCorasickKind::ContiguousNFA };
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(kind))
            .build(patterns)
            .map_err(|_| {
                crate::Error::invalid("secrets", "are too many or too long to be masked in logs")
            })?;
        let longest = patterns.iter().map(Vec::len).max().unwrap_or(0);
        Ok(Self { automaton: Some(automaton), longest, patterns: patterns.len(), generation })
    }

    /// No secret is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.automaton.is_none()
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
    }

    /// `text` with each secret replaced.
    #[must_use]
    pub fn mask<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        match &self.automaton {
            Some(automaton) if automaton.is_match(text) => {
                let mut out = Vec::with_capacity(text.len());
                automaton.replace_all_with_bytes(text, &mut out, |_, _, out| {
                    out.extend_from_slice(MASK.as_bytes());
                    true
                });
                Cow::Owned(out)
            }
            _ => Cow::Borrowed(text),
        }
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

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masks")
            .field("patterns", &self.patterns)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// A writer that holds text until a line is whole, and passes it on masked. The rest is written by `flush`, and when
/// the writer is dropped.
pub struct RedactingWriter<W: io::Write> {
    redactor: Arc<Redactor>,
    held: Vec<u8>,
    out: W,
}

impl<W: io::Write> RedactingWriter<W> {
    fn pass(&mut self, end: usize) -> io::Result<()> {
        let masks = self.redactor.current();
        let result = self.out.write_all(&masks.mask(&self.held[..end.min(self.held.len())]));
        // Dropped even on failure: a second try could write a part twice.
        self.held.drain(..end.min(self.held.len()));
        result
    }
}

impl<W: io::Write> io::Write for RedactingWriter<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(text);
        if let Some(last) = memchr::memrchr(b'\n', &self.held) {
            self.pass(last + 1)?;
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass(self.held.len())?;
        self.out.flush()
    }
}

impl<W: io::Write> Drop for RedactingWriter<W> {
    fn drop(&mut self) {
        if !self.held.is_empty() {
            let _ = io::Write::flush(self);
        }
    }
}

impl<W: io::Write> fmt::Debug for RedactingWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedactingWriter").field("held", &self.held.len()).finish_non_exhaustive()
    }
}

/// All texts under which `secret` may show up.
fn add_forms(secret: &str, into: &mut BTreeSet<Vec<u8>>) {
    let whole = secret.trim_matches(['\r', '\n']);
    if whole.len() < SHORTEST {
        return;
    }
    let lines = whole.lines().map(|line| line.trim_end_matches('\r'));
    if whole.contains('\n') {
        into.extend(lines.filter(|l| l.len() >= SHORTEST_LINE).map(|l| l.as_bytes().to_vec()));
    } else {
        into.insert(whole.as_bytes().to_vec());
    }
    for text in [secret, whole] {
        into.extend(json_forms(text).map(String::into_bytes));
        into.extend(percent_forms(text).map(String::into_bytes));
        for alignment in 0..3 {
            let found = base64_core(text.as_bytes(), alignment);
            if found.len() >= SHORTEST_BASE64 {
                let url_safe = found.replace('+', "-").replace('/', "_");
                into.extend([found, url_safe].map(String::into_bytes));
            }
        }
    }
    into.retain(|form| !form.contains(&b'\n'));
}

/// As a JSON string, with other alphabets as they are, and as `\uXXXX` (Python's default).
fn json_forms(text: &str) -> impl Iterator<Item = String> {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    let plain = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned();
    let mut ascii = String::new();
    for c in plain.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    [plain, ascii].into_iter().filter(|form| form.len() >= SHORTEST)
}

/// Percent-encoded: upper and lower case digits, a space as `%20` and as `+`.
fn percent_forms(text: &str) -> impl Iterator<Item = String> {
    let mut upper = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            upper.push(char::from(byte));
        } else {
            let _ = write!(upper, "%{byte:02X}");
        }
    }
    let mut lower = String::new();
    let mut in_code = 0;
    for c in upper.chars() {
        in_code = if c == '%' { 3_u8 } else { in_code };
        lower.push(if in_code > 0 { c.to_ascii_lowercase() } else { c });
        in_code = in_code.saturating_sub(1);
    }
    let form = upper.replace("%20", "+");
    [upper, lower, form].into_iter()
}

/// The characters that `bytes` alone decide in the base64 text of something that holds `bytes` at an offset of
/// `alignment` modulo 3.
fn base64_core(bytes: &[u8], alignment: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in std::iter::repeat_n(&0, alignment).chain(bytes) {
        bits = (bits << 8) | u32::from(*byte);
        count += 8;
        while count >= 6 {
            count -= 6;
            let index = usize::try_from((bits >> count) & 63).unwrap_or(0);
            text.push(char::from(ALPHABET[index]));
        }
        bits &= (1 << count) - 1;
    }
    // The first characters hold bits of what stands before.
    text.get((alignment * 8).div_ceil(6)..).unwrap_or_default().to_owned()
}
