//! What the daemon and its exchanger say to each other: JSON, each message after its length in four bytes, big endian.

use std::{fmt, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret as _, SecretSlice};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    Error, Result, Timestamp,
    store::{Generation, GrantId},
    vault::{ExchangeJob, Exchanged, RawAnswer, Ticket, TokenRequest},
};

/// No message is longer: an answer's body grows by a third as base64.
const LARGEST: usize = 2 * RawAnswer::LARGEST;

/// What the daemon says.
#[derive(Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum Ask {
    /// Who asks, and what answers are sealed with that it cannot be told any more.
    Hello { version: String, key: String },
    /// Sends a request.
    Exchange(Job),
    /// What became of it?
    Recover { ticket: Number },
    /// Its answer is stored.
    Settled { ticket: Number },
    /// Take nothing more, and end.
    Retire,
}

/// What the exchanger says.
#[derive(Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum Tell {
    /// Who answers.
    Welcome { version: String, pid: u32 },
    /// An exchange has ended.
    Ended { ticket: Number, end: End },
    /// Nothing is known of it.
    Unknown { ticket: Number },
}

/// A [`Ticket`].
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Number(i64, u64, u32);

impl From<Ticket> for Number {
    fn from(ticket: Ticket) -> Self {
        Self(ticket.grant.0, ticket.generation.0, ticket.attempt)
    }
}

impl From<Number> for Ticket {
    fn from(Number(grant, generation, attempt): Number) -> Self {
        Self { grant: GrantId(grant), generation: Generation(generation), attempt }
    }
}

/// An [`ExchangeJob`].
#[derive(Serialize, Deserialize)]
pub(super) struct Job {
    ticket: Number,
    url: String,
    insecure: bool,
    headers: Vec<(String, String)>,
    form: Vec<(String, String)>,
    limit: Duration,
    send_before: Duration,
}

impl Drop for Job {
    fn drop(&mut self) {
        for (_, value) in self.headers.iter_mut().chain(&mut self.form) {
            value.zeroize();
        }
    }
}

impl Job {
    pub(super) fn new(job: &ExchangeJob) -> Self {
        let exposed = |pairs: &[(String, secrecy::SecretString)]| {
            let one = |(name, value): &(String, secrecy::SecretString)| {
                (name.clone(), value.expose_secret().to_owned())
            };
            pairs.iter().map(one).collect()
        };
        Self {
            ticket: job.ticket.into(),
            url: job.request.url.clone(),
            insecure: job.request.insecure,
            headers: exposed(&job.request.headers),
            form: exposed(&job.request.form),
            limit: job.limit,
            send_before: job.send_before,
        }
    }

    pub(super) fn open(mut self) -> ExchangeJob {
        let hidden = |pairs: &mut Vec<(String, String)>| {
            std::mem::take(pairs).into_iter().map(|(name, value)| (name, value.into())).collect()
        };
        ExchangeJob {
            ticket: self.ticket.into(),
            request: TokenRequest {
                url: std::mem::take(&mut self.url),
                insecure: self.insecure,
                headers: hidden(&mut self.headers),
                form: hidden(&mut self.form),
            },
            limit: self.limit,
            send_before: self.send_before,
        }
    }
}

/// An [`Exchanged`].
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub(super) enum End {
    Answered { status: u16, retry_after: Option<String>, body: String, sent_at: i64, at: i64 },
    NotSent { why: String },
    Unanswered { why: String },
}

/// Without what it holds.
impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answered { .. } => "Answered",
            Self::NotSent { .. } => "NotSent",
            Self::Unanswered { .. } => "Unanswered",
        })
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Self::Answered { body, .. } = self {
            body.zeroize();
        }
    }
}

impl From<Exchanged> for End {
    fn from(exchanged: Exchanged) -> Self {
        match exchanged {
            Exchanged::Answered(answer) => Self::Answered {
                status: answer.status,
                retry_after: answer.retry_after,
                body: BASE64_STANDARD.encode(answer.body.expose_secret()),
                sent_at: answer.sent_at.0,
                at: answer.at.0,
            },
            Exchanged::NotSent(error) => Self::NotSent { why: error.chain() },
            Exchanged::Unanswered(error) => Self::Unanswered { why: error.chain() },
        }
    }
}

impl End {
    pub(super) fn open(&self) -> Exchanged {
        let failed = |why: &str| Error::Unavailable {
            what: "the token endpoint".into(),
            source: why.to_owned().into(),
        };
        match self {
            Self::Answered { status, retry_after, body, sent_at, at } => {
                match BASE64_STANDARD.decode(body) {
                    Ok(bytes) => Exchanged::Answered(RawAnswer {
                        status: *status,
                        retry_after: retry_after.clone(),
                        body: SecretSlice::from(bytes),
                        sent_at: Timestamp(*sent_at),
                        at: Timestamp(*at),
                    }),
                    Err(_) => Exchanged::Unanswered(failed("its answer was damaged on the way")),
                }
            }
            Self::NotSent { why } => Exchanged::NotSent(failed(why)),
            Self::Unanswered { why } => Exchanged::Unanswered(failed(why)),
        }
    }
}

/// What may hold secrets, and how long it is as text at most.
pub(super) trait Message: Serialize {
    fn longest(&self) -> usize;
}

/// Beside what varies.
const AROUND: usize = 1024;

impl Message for Ask {
    fn longest(&self) -> usize {
        match self {
            // Each byte may need an escape.
            Self::Exchange(job) => {
                let pairs = job.headers.iter().chain(&job.form);
                AROUND
                    + 6 * (job.url.len() + pairs.map(|(k, v)| k.len() + v.len() + 8).sum::<usize>())
            }
            _ => AROUND,
        }
    }
}

impl Message for Tell {
    fn longest(&self) -> usize {
        match self {
            Self::Ended { end, .. } => end.longest(),
            _ => AROUND,
        }
    }
}

impl Message for End {
    fn longest(&self) -> usize {
        match self {
            // Base64 needs no escapes.
            Self::Answered { body, retry_after, .. } => {
                AROUND + body.len() + 6 * retry_after.as_ref().map_or(0, String::len)
            }
            Self::NotSent { why } | Self::Unanswered { why } => AROUND + 6 * why.len(),
        }
    }
}

impl End {
    /// As it is kept.
    pub(super) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        written(self, 0)
    }
}

/// Room for all of it from the beginning: what grows leaves copies behind that nobody wipes.
fn written<T: Message>(message: &T, before: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(before + message.longest()));
    bytes.resize(before, 0);
    // These types always serialize, and into memory.
    let _ = serde_json::to_writer(&mut *bytes, message);
    bytes
}

/// A message as bytes.
pub(super) fn encode<T: Message>(message: &T) -> Zeroizing<Vec<u8>> {
    let mut bytes = written(message, 4);
    let length = u32::try_from(bytes.len() - 4).unwrap_or(0);
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// Writes what [`encode`] made.
pub(super) async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes).await.map_err(Error::unavailable("the exchanger's socket"))
}

/// Reads the next message; `None` at the end of the stream.
pub(super) async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(_) => return Ok(None),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > LARGEST {
        return Err(damaged());
    }
    let mut bytes = Zeroizing::new(vec![0; length]);
    if stream.read_exact(&mut bytes).await.is_err() {
        return Ok(None);
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|_| damaged())
}

fn damaged() -> Error {
    // Not what was read: it may hold a token.
    Error::Corrupt {
        what: "the exchanger's socket".into(),
        detail: "not a message of this protocol".into(),
    }
}
