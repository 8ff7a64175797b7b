//! Masking of what a program writes about itself.

use std::{fmt, io, sync::Arc};

use super::Redactor;

/// A writer that holds text until a line is whole, and passes it on masked. The rest is written by `flush`, and when
/// the writer is dropped.
pub struct RedactingWriter<W: io::Write> {
    redactor: Arc<Redactor>,
    held: Vec<u8>,
    out: W,
}

impl<W: io::Write> RedactingWriter<W> {
    pub(super) fn new(redactor: Arc<Redactor>, out: W) -> Self {
        Self { redactor, held: Vec::new(), out }
    }

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
