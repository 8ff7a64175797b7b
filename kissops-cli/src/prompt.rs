//! Secrets from people and from pipes: never from arguments, which every user of a machine can read.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use kissops_core::Error;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::{context::Context, exit::Failure};

/// No secret of ours is longer.
const LONGEST: u64 = 64 << 10;

/// A new secret: typed twice without an echo on a terminal, else all of stdin without its last line end.
pub(crate) fn new_secret(what: &str) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return piped();
    }
    let first = hidden(&format!("{what}: "))?;
    if first.is_empty() {
        return Err(Failure::new("cancelled", "nothing was typed, so nothing was done", ""));
    }
    if first != hidden("once more: ")? {
        let help = "type it again, or pipe it in: kissops … < file";
        return Err(Failure::new("cancelled", "the two are not the same; nothing was done", help));
    }
    Ok(first)
}

fn piped() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().lock().take(LONGEST + 1).read_to_string(&mut text);
    let read = read.map_err(|err| match err.kind() {
        io::ErrorKind::InvalidData => Failure::usage("what stdin holds is not UTF-8", ""),
        _ => Error::io("read stdin")(err).into(),
    })?;
    if read as u64 > LONGEST {
        return Err(Failure::usage(format!("a secret has at most {LONGEST} bytes"), ""));
    }
    let end = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text));
    if let Some(end) = end.map(str::len) {
        text.truncate(end);
    }
    if text.is_empty() {
        let help = "pipe the secret in, or type it on a terminal";
        return Err(Failure::usage("there is no secret on stdin", help));
    }
    Ok(text)
}

/// Asks before a secret is shown: on a terminal, or by `--yes`. Unlike with other questions, silence is not consent.
pub(crate) fn confirm_reveal(context: &Context, question: &str) -> Result<(), Failure> {
    if context.says_yes() || (io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return context.confirm(question);
    }
    Err(Failure::usage("nobody is there to be asked before a secret is shown", "say --yes"))
}

/// The terminal of stdin without its echo; as it was when this is dropped.
struct Silent(Termios);

impl Silent {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        // Ctrl-C comes as a character, so that the echo is back before we end.
        silent.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // Nothing better can be done about a terminal that has gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
        let _ = writeln!(io::stderr());
    }
}

fn hidden(question: &str) -> Result<String, Failure> {
    let unreadable = |err| Failure::from(Error::io("read from the terminal")(err));
    write!(io::stderr(), "{question}")?;
    io::stderr().flush()?;
    let silent = Silent::new().map_err(unreadable)?;
    let typed = line();
    drop(silent);
    match typed.map_err(unreadable)? {
        Some(bytes) => {
            String::from_utf8(bytes).map_err(|_| Failure::usage("what was typed is not UTF-8", ""))
        }
        None => Err(Failure::new("cancelled", "nothing was done", "")),
    }
}

/// What is typed up to Enter; `None` after Ctrl-C, or Ctrl-D at the beginning.
fn line() -> io::Result<Option<Vec<u8>>> {
    let mut typed: Vec<u8> = Vec::new();
    let mut stdin = io::stdin().lock();
    loop {
        let available = stdin.fill_buf()?;
        let Some(&byte) = available.first() else { return Ok(None) };
        stdin.consume(1);
        match byte {
            b'\n' | b'\r' => return Ok(Some(typed)),
            3 => return Ok(None),
            4 if typed.is_empty() => return Ok(None),
            4 => {}
            // Back over one character, which may be several bytes.
            8 | 127 => while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            // Ctrl-U
            21 => typed.clear(),
            byte => typed.push(byte),
        }
    }
}
