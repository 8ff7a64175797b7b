//! Text from bots, made harmless for a terminal: an escape sequence could move the cursor, set the title, or type.

use std::borrow::Cow;

/// `text` without escape sequences and control characters; tabs stay.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| c == '\t' || !is_control(c);
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' => skip_sequence(&mut rest),
            // The one-character forms of `ESC [` and `ESC ]`.
            '\u{9b}' => skip_csi(&mut rest),
            '\u{9d}' | '\u{90}' | '\u{98}' | '\u{9e}' | '\u{9f}' => skip_string(&mut rest),
            c if harmless(c) => out.push(c),
            _ => {}
        }
    }
    Cow::Owned(out)
}

/// Control characters, and those that turn the direction of text around.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

type Rest<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Skips what follows an ESC (ECMA-48, sections 5.3 to 5.6).
fn skip_sequence(rest: &mut Rest<'_>) {
    match rest.peek() {
        Some('[') => {
            rest.next();
            skip_csi(rest);
        }
        Some(']' | 'P' | 'X' | '^' | '_') => {
            rest.next();
            skip_string(rest);
        }
        Some(c) if ('\x20'..='\x7e').contains(c) => {
            // Intermediate bytes, then a final one.
            while rest.next_if(|c| ('\x20'..='\x2f').contains(c)).is_some() {}
            rest.next_if(|c| ('\x30'..='\x7e').contains(c));
        }
        _ => {}
    }
}

fn skip_csi(rest: &mut Rest<'_>) {
    while rest.next_if(|c| ('\x20'..='\x3f').contains(c)).is_some() {}
    rest.next_if(|c| ('\x40'..='\x7e').contains(c));
}

/// A string ends with BEL or ST.
fn skip_string(rest: &mut Rest<'_>) {
    while let Some(c) = rest.next() {
        match c {
            '\x07' | '\u{9c}' => return,
            '\x1b' => {
                rest.next_if_eq(&'\\');
                return;
            }
            _ => {}
        }
    }
}

/// How many columns a terminal gives to `text`.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// An approximation of Unicode's East Asian Width: what chat bots print, not all that exists.
fn columns_of(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200f}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1f64f}'
        | '\u{1f680}'..='\u{1f6ff}'
        | '\u{1f900}'..='\u{1f9ff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// `text` in at most `most` columns, with … where something was cut.
pub(crate) fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if columns(text) <= most {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += columns_of(c);
        if used > most {
            break;
        }
        out.push(c);
    }
    if most > 0 {
        out.push('…');
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        for (dirty, clean) in [
            ("plain\ttext", "plain\ttext"),
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07after", "after"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("a\x1b(Bb\x1bcd", "abd"),
            ("\u{9b}31mred", "red"),
            ("\x1bP1$r\x1b\\q", "q"),
            ("bell\x07back\x08cr\rnul\0", "bellbackcrnul"),
            ("\x1b", ""),
            ("\x1b[", ""),
            ("\x1b]never ends", ""),
            ("abc\u{202e}cba", "abccba"),
        ] {
            assert_eq!(text(dirty), clean, "{dirty:?}");
        }
    }

    #[test]
    fn cuts_at_columns() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(columns("e\u{301}🤖"), 3);
        assert_eq!(cut("abc", 0), "");
    }
}
