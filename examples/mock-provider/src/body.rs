//! Answers, whole or broken.

use std::{
    collections::VecDeque,
    fmt,
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    Response,
    body::{Body, Bytes, Frame, SizeHint},
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use tokio::time::{Instant, Sleep, sleep_until};

/// The connection is closed without an answer.
#[derive(Debug)]
pub(crate) struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is closed on purpose")
    }
}

impl std::error::Error for Gone {}

/// How the bytes of an answer go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Whole,
    /// Half of them, then the connection is closed.
    Half,
    /// In small pieces, over this time.
    Slow(Duration),
}

/// An answer before it is sent.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) manner: Manner,
}

impl Answer {
    pub(crate) fn new(status: u16, kind: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, kind, headers: Vec::new(), body: body.into(), manner: Manner::Whole }
    }

    pub(crate) fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, "application/json", body)
    }

    pub(crate) fn html(status: u16, body: &str) -> Self {
        Self::new(status, "text/html; charset=utf-8", body)
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub(crate) fn into_response(self) -> Response<Sent> {
        let mut response = Response::new(Sent::new(&self.body.into(), self.manner));
        *response.status_mut() = self.status.try_into().unwrap_or_default();
        let headers = response.headers_mut();
        if !self.kind.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        }
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}

/// A body on its way.
pub(crate) struct Sent {
    pieces: VecDeque<Bytes>,
    left: u64,
    pause: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    breaks: bool,
    flushes: bool,
}

impl Sent {
    fn new(bytes: &Bytes, manner: Manner) -> Self {
        let left = bytes.len() as u64;
        let breaks = manner == Manner::Half;
        let (end, size, over) = match manner {
            Manner::Whole => (bytes.len(), bytes.len(), Duration::ZERO),
            Manner::Half => (bytes.len() / 2, bytes.len(), Duration::ZERO),
            Manner::Slow(over) => (bytes.len(), bytes.len() / 10, over),
        };
        let size = size.max(1);
        let pieces: VecDeque<Bytes> =
            (0..end).step_by(size).map(|at| bytes.slice(at..end.min(at + size))).collect();
        let pause = over / u32::try_from(pieces.len().max(1)).unwrap_or(1);
        Self { pieces, left, pause, sleep: None, breaks, flushes: breaks }
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Gone;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Gone>>> {
        if self.pieces.is_empty() {
            if std::mem::take(&mut self.flushes) {
                // What went before is only written while nothing more is to be had.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let broken = std::mem::take(&mut self.breaks);
            return Poll::Ready(broken.then_some(Err(Gone)));
        }
        if !self.pause.is_zero() {
            let until = Instant::now() + self.pause;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(until)));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.sleep = None;
        }
        let piece = self.pieces.pop_front();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && !self.breaks
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The whole body of a request, up to `largest` bytes.
pub(crate) async fn collect(
    mut body: hyper::body::Incoming,
    largest: usize,
) -> Result<Vec<u8>, Gone> {
    let mut all = Vec::new();
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let Some(frame) = frame else { return Ok(all) };
        if let Ok(data) = frame.map_err(|_| Gone)?.into_data() {
            if all.len() + data.len() > largest {
                return Err(Gone);
            }
            all.extend_from_slice(&data);
        }
    }
}
