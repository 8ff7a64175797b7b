//! Bytes as a bot wrote them become lines of a log file: split, cut, masked, stamped.

use memchr::{memchr, memchr_iter};

use super::{LogFormat, LogStream};
use crate::{Timestamp, redact::MASK};

/// How a chunk is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) format: LogFormat,
    pub(super) stream: LogStream,
    pub(super) at: Timestamp,
    /// Longer lines are cut; at least 1.
    pub(super) max_line: usize,
    /// This many bytes behind a cut must be known, lest a secret begins before it and ends behind what was read.
    pub(super) lookahead: usize,
    pub(super) tail: Tail,
}

/// What is to be done with the start of a line that has no end yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// It stays where it is; more will come.
    Keep,
    /// It is a line: nothing more will come.
    Flush,
}

/// What was made of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Formatted {
    /// So many bytes of the chunk are in the output; the rest is the start of a line.
    pub(super) taken: usize,
    /// Lines and pieces of lines.
    pub(super) lines: u64,
}

/// Appends the lines of `raw` to `out`. `secrets` are the places to mask, in order, as start and end.
pub(super) fn format(
    layout: &Layout,
    raw: &[u8],
    secrets: &[(usize, usize)],
    out: &mut Vec<u8>,
) -> Formatted {
    let mut writer = Writer::new(layout, raw, secrets, out);
    let mut start = 0;
    for end in memchr_iter(b'\n', raw) {
        writer.line(start, end, End::Newline);
        start = end + 1;
    }
    let rest = raw.len() - start;
    let limit = layout.max_line + layout.lookahead;
    match layout.tail {
        Tail::Flush if rest > 0 => {
            writer.line(start, raw.len(), End::OfInput);
            start = raw.len();
        }
        Tail::Keep if rest > limit => {
            while raw.len() - start > limit {
                start = writer.cut_piece(start, start + layout.max_line);
            }
        }
        _ => {}
    }
    Formatted { taken: start, lines: writer.lines }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Newline,
    OfInput,
    Cut,
}

struct Writer<'a> {
    layout: &'a Layout,
    raw: &'a [u8],
    /// What is not yet behind us.
    secrets: &'a [(usize, usize)],
    out: &'a mut Vec<u8>,
    whole: Prefix,
    lines: u64,
}

/// What stands before each line, made once for a chunk.
struct Prefix {
    bytes: [u8; 64],
    length: usize,
}

impl Prefix {
    fn new(layout: &Layout) -> Self {
        let mut prefix = Self { bytes: [0; 64], length: 0 };
        let stamp = layout.at.render();
        let parts: [&[u8]; 4] = match (layout.format, layout.stream) {
            (LogFormat::Raw, _) => [b"", b"", b"", b""],
            (LogFormat::Text, LogStream::Stdout) => [&stamp, b" O ", b"", b""],
            (LogFormat::Text, LogStream::Stderr) => [&stamp, b" E ", b"", b""],
            (LogFormat::Json, stream) => {
                [b"{\"at\":\"", &stamp, b"\",\"stream\":\"", stream.name().as_bytes()]
            }
        };
        for part in parts {
            for byte in part {
                if let Some(slot) = prefix.bytes.get_mut(prefix.length) {
                    *slot = *byte;
                    prefix.length += 1;
                }
            }
        }
        prefix
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl<'a> Writer<'a> {
    fn new(
        layout: &'a Layout,
        raw: &'a [u8],
        secrets: &'a [(usize, usize)],
        out: &'a mut Vec<u8>,
    ) -> Self {
        out.reserve(raw.len() + raw.len() / 2 + 256);
        Self { layout, raw, secrets, out, whole: Prefix::new(layout), lines: 0 }
    }

    /// A line without its newline, in pieces if it is too long.
    fn line(&mut self, mut start: usize, end: usize, how: End) {
        while end - start > self.layout.max_line {
            let cut = self.cut_piece(start, start + self.layout.max_line);
            if cut >= end {
                // A secret longer than a line filled the rest of it.
                start = end;
                break;
            }
            start = cut;
        }
        self.piece(start, end, how);
    }

    /// Writes a piece that ends near `target`, and gives its end.
    fn cut_piece(&mut self, start: usize, target: usize) -> usize {
        let end = self.cut_place(start, target.min(self.raw.len()));
        self.piece(start, end, End::Cut);
        end
    }

    /// A place near `target` that divides no secret and, where that is possible, no character.
    fn cut_place(&self, start: usize, target: usize) -> usize {
        let divided = self.secrets.iter().find(|(_, end)| *end > target);
        if let Some((from, to)) = divided.filter(|(from, _)| *from < target) {
            return if *from > start { *from } else { *to };
        }
        let continues = |at: usize| self.raw.get(at).is_some_and(|b| b & 0xc0 == 0x80);
        (0..4)
            .map(|back| target.saturating_sub(back))
            .find(|at| *at > start && !continues(*at))
            // Stepping back must not enter a secret that ends at the target: it is whole characters, so it does not.
            .unwrap_or(target)
    }

    fn piece(&mut self, start: usize, end: usize, how: End) {
        self.lines += 1;
        self.out.extend_from_slice(self.whole.get());
        match self.layout.format {
            LogFormat::Raw => {
                self.masked(start, end, Vec::extend_from_slice);
                if how == End::Newline {
                    self.out.push(b'\n');
                }
            }
            LogFormat::Text => {
                if how == End::Cut {
                    // Between the stream's letter and the space.
                    let at = self.out.len().saturating_sub(1);
                    self.out.insert(at, b'+');
                }
                self.masked(start, end, Vec::extend_from_slice);
                self.out.push(b'\n');
            }
            LogFormat::Json => {
                let head: &[u8] = if how == End::Cut {
                    b"\",\"partial\":true,\"line\":\""
                } else {
                    b"\",\"line\":\""
                };
                self.out.extend_from_slice(head);
                self.masked(start, end, escape);
                self.out.extend_from_slice(b"\"}\n");
            }
        }
    }

    /// Writes `raw[start..end]`, with a mask for each secret.
    fn masked(&mut self, start: usize, end: usize, put: fn(&mut Vec<u8>, &[u8])) {
        let mut from = start;
        while let Some(((at, to), later)) = self.secrets.split_first().map(|(s, l)| (*s, l)) {
            if at >= end {
                break;
            }
            self.secrets = later;
            if let Some(plain) = self.raw.get(from..at.max(from)) {
                put(self.out, plain);
            }
            self.out.extend_from_slice(MASK.as_bytes());
            from = to.min(end);
        }
        if let Some(plain) = self.raw.get(from..end) {
            put(self.out, plain);
        }
    }
}

/// Appends `bytes` as the inside of a JSON string; what is not UTF-8 becomes U+FFFD.
pub(super) fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    // Without an early exit the loop is one for the vector unit.
    let odd = bytes.iter().fold(0, |odd, b| {
        odd | u8::from(*b < 0x20)
            | u8::from(*b == b'"')
            | u8::from(*b == b'\\')
            | (*b & 0x80)
            | u8::from(*b == 0x7f)
    });
    if odd == 0 {
        out.extend_from_slice(bytes);
        return;
    }
    for chunk in bytes.utf8_chunks() {
        escape_text(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn escape_text(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut from = 0;
    for (at, byte) in text.iter().enumerate() {
        let short = match byte {
            b'"' | b'\\' => *byte,
            b'\t' => b't',
            b'\r' => b'r',
            b'\n' => b'n',
            0..0x20 | 0x7f => 0,
            _ => continue,
        };
        out.extend_from_slice(text.get(from..at).unwrap_or_default());
        from = at + 1;
        if short == 0 {
            out.extend_from_slice(b"\\u00");
            out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        } else {
            out.extend([b'\\', short]);
        }
    }
    out.extend_from_slice(text.get(from..).unwrap_or_default());
}

/// The lines of `raw` that are whole, without their newlines.
pub(super) fn whole_lines(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = raw;
    std::iter::from_fn(move || {
        let end = memchr(b'\n', rest)?;
        let (line, after) = rest.split_at_checked(end)?;
        rest = after.get(1..).unwrap_or_default();
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(format: LogFormat, max_line: usize, tail: Tail) -> Layout {
        Layout { format, stream: LogStream::Stdout, at: Timestamp(0), max_line, lookahead: 6, tail }
    }

    fn run(layout: &Layout, raw: &[u8], secrets: &[(usize, usize)]) -> (usize, String) {
        let mut out = Vec::new();
        let done = format(layout, raw, secrets, &mut out);
        (done.taken, String::from_utf8_lossy(&out).replace("1970-01-01T00:00:00.000000Z", "T"))
    }

    #[test]
    fn lines_are_stamped_and_a_start_of_a_line_is_left() {
        let (taken, out) = run(&layout(LogFormat::Text, 100, Tail::Keep), b"a\n\nb\nhal", &[]);
        assert_eq!((taken, out.as_str()), (5, "T O a\nT O \nT O b\n"));
        let (taken, out) = run(&layout(LogFormat::Text, 100, Tail::Flush), b"a\nhal", &[]);
        assert_eq!((taken, out.as_str()), (5, "T O a\nT O hal\n"));
    }

    #[test]
    fn long_lines_are_cut_where_nothing_breaks() {
        let text = layout(LogFormat::Text, 4, Tail::Keep);
        assert_eq!(run(&text, b"abcdefgh\n", &[]).1, "T O+ abcd\nT O efgh\n");
        assert_eq!(
            run(&text, "abc\u{e9}fg\n".as_bytes(), &[]).1,
            "T O+ abc\nT O+ \u{e9}fg\nT O \n".replace("T O+ \u{e9}fg\nT O \n", "T O \u{e9}fg\n")
        );
        // A secret at 3..8 moves the cut before itself, and is kept whole though it is longer than a line.
        assert_eq!(run(&text, b"abcSECREdefg\n", &[(3, 8)]).1, "T O+ abc\nT O+ ***\nT O defg\n");
        // Not cut before the bytes behind are known.
        assert_eq!(run(&text, b"abcdefghij", &[]).0, 0);
        assert_eq!(run(&text, b"abcdefghijk", &[]), (4, "T O+ abcd\n".into()));
    }

    #[test]
    fn json_is_always_json() {
        let raw = b"quote \" slash \\ tab \t nul \0 bad \xff \xc3\xa9 del \x7f SECRET end\n";
        let at = raw.windows(6).position(|w| w == b"SECRET").unwrap();
        let (_, out) = run(&layout(LogFormat::Json, 1000, Tail::Keep), raw, &[(at, at + 6)]);
        let value: serde_json::Value =
            serde_json::from_str(&out.replace("\"T\"", "\"x\"")).unwrap();
        assert_eq!(
            value["line"],
            "quote \" slash \\ tab \t nul \0 bad \u{fffd} \u{e9} del \u{7f} *** end"
        );
        let (_, out) = run(&layout(LogFormat::Json, 4, Tail::Keep), b"abcdef\n", &[]);
        assert!(
            out.starts_with(r#"{"at":"T","stream":"stdout","partial":true,"line":"abcd"}"#),
            "{out}"
        );
    }

    #[test]
    fn raw_is_raw() {
        let raw = layout(LogFormat::Raw, 4, Tail::Keep);
        assert_eq!(run(&raw, b"abcdefgh\nij\n", &[(1, 2)]).1, "a***cdefgh\nij\n");
        assert_eq!(run(&layout(LogFormat::Raw, 4, Tail::Flush), b"ab", &[]).1, "ab");
    }
}
