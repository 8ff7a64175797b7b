//! Whether a request's body went out: decided once, and true whichever thread asks.
//!
//! The HTTP library asks for the body only when a connection stands and is about to write it, and asks on its own task.
//! What it never asked for was never written; no provider acts on a request whose body is missing. After a failure the
//! question is closed with [`Hold::end`], so that a library that still has the request cannot send it later.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use zeroize::Zeroizing;

use crate::clock;

/// What became of a request's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Held {
    /// Nothing of it went out.
    #[default]
    Back,
    /// It was kept back because its time was over.
    TooLate,
    /// It was handed to the connection at this time since boot.
    Sent(Duration),
}

impl Held {
    /// How long before `now` it was sent.
    pub(super) fn since(self, now: Duration) -> Duration {
        match self {
            Self::Sent(at) => now.saturating_sub(at),
            Self::Back | Self::TooLate => Duration::ZERO,
        }
    }
}

/// The decision about one body.
#[derive(Clone, Default)]
pub(super) struct Departure(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    held: Held,
    closed: bool,
}

impl Departure {
    /// The body, to be given to the HTTP library.
    pub(super) fn body(
        &self,
        bytes: Zeroizing<Vec<u8>>,
        send_before: Option<Duration>,
    ) -> reqwest::Body {
        let bytes = Some(Bytes::from_owner(bytes));
        reqwest::Body::wrap(Parcel { bytes, send_before, departure: self.clone() })
    }

    /// It goes out now, if it still may.
    pub(super) fn depart(&self) -> bool {
        self.decide(Held::Sent(clock::since_boot()))
    }

    /// Nothing goes out any more once the answer is dropped or ended.
    pub(super) fn hold(&self) -> Hold<'_> {
        Hold(self)
    }

    fn decide(&self, held: Held) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = !state.closed;
        if open {
            *state = State { held, closed: true };
        }
        open
    }

    fn close(&self) -> Held {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        state.held
    }
}

/// Somebody waits for the answer.
pub(super) struct Hold<'a>(&'a Departure);

impl Hold<'_> {
    /// What became of the body; from here on that does not change.
    pub(super) fn end(self) -> Held {
        self.0.close()
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A body in one piece that is given out at most once.
struct Parcel {
    bytes: Option<Bytes>,
    send_before: Option<Duration>,
    departure: Departure,
}

impl Body for Parcel {
    type Data = Bytes;
    type Error = KeptBack;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, KeptBack>>> {
        let Some(bytes) = self.bytes.take() else { return Poll::Ready(None) };
        let late = self.send_before.is_some_and(|end| clock::since_boot() >= end);
        let goes = if late {
            self.departure.decide(Held::TooLate);
            false
        } else {
            self.departure.depart()
        };
        Poll::Ready(Some(if goes { Ok(Frame::data(bytes)) } else { Err(KeptBack) }))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// The body is not to be sent any more.
#[derive(Debug)]
struct KeptBack;

impl fmt::Display for KeptBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it was kept back")
    }
}

impl StdError for KeptBack {}
