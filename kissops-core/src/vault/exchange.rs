//! The seam between who decides that a token is exchanged and who sends the request.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use secrecy::{SecretSlice, SecretString};

use crate::{
    Error, Result, Timestamp,
    store::{Generation, GrantId},
};

/// Which exchange: one attempt to follow one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// Of which grant.
    pub grant: GrantId,
    /// The generation whose tokens are presented.
    pub generation: Generation,
    /// Counts the attempts from 1.
    pub attempt: u32,
}

/// A POST to a token endpoint. Everything in it but the URL may be secret.
#[derive(Clone)]
pub struct TokenRequest {
    /// Where to; never holds a secret.
    pub url: String,
    /// Headers beside those of every form.
    pub headers: Vec<(String, SecretString)>,
    /// The body, as `application/x-www-form-urlencoded`.
    pub form: Vec<(String, SecretString)>,
    /// It may go to another machine without TLS: the provider's profile says so. Off but for a test network.
    pub insecure: bool,
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequest").field("url", &self.url).finish_non_exhaustive()
    }
}

/// A request and what belongs to it.
#[derive(Clone, Debug)]
pub struct ExchangeJob {
    /// Which exchange.
    pub ticket: Ticket,
    /// What is sent.
    pub request: TokenRequest,
    /// The longest that it may take from beginning to end.
    pub limit: Duration,
    /// The moment on [`clock::since_boot`](crate::clock::since_boot) after which it must not be sent any more: the right
    /// to do so may be another's by then.
    pub send_before: Duration,
}

/// An answer as it came, read by nobody yet.
#[derive(Clone)]
pub struct RawAnswer {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`, in seconds or as a date, as it was sent.
    pub retry_after: Option<String>,
    /// The body; as much of it as [`RawAnswer::LARGEST`].
    pub body: SecretSlice<u8>,
    /// When the request was sent: what it grants lasts from here at the earliest.
    pub sent_at: Timestamp,
    /// When the answer was there.
    pub at: Timestamp,
}

impl RawAnswer {
    /// No token endpoint says more than this many bytes.
    pub const LARGEST: usize = 256 << 10;
}

impl fmt::Debug for RawAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawAnswer")
            .field("status", &self.status)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// How an exchange ended.
#[derive(Debug)]
pub enum Exchanged {
    /// There is an answer, good or bad.
    Answered(RawAnswer),
    /// Not one byte of the request went out: it may be sent again.
    NotSent(Error),
    /// It went out, at least in part, and no whole answer came: the provider may have carried it out.
    Unanswered(Error),
}

/// For so long an answer that is there already is still taken when its time is over.
const GRACE: Duration = Duration::from_millis(500);

/// Waits for an answer, but no longer than `limit`; `None`: it did not come.
///
/// A process that stood still for longer than that finds its answer and the end of its patience at the same moment. Then
/// the answer counts: it may hold the only token there is.
pub(crate) async fn within<F: Future>(limit: Duration, answer: F) -> Option<F::Output> {
    let mut answer = std::pin::pin!(answer);
    if let Ok(come) = tokio::time::timeout(limit, &mut answer).await {
        return Some(come);
    }
    tokio::time::timeout(GRACE, answer).await.ok()
}

/// Sends token requests. Follows no redirect, and sends each request once.
#[async_trait]
pub trait Exchanger: fmt::Debug + Send + Sync + 'static {
    /// Sends it and waits for the answer.
    ///
    /// # Cancel safety
    /// A dropped call may have sent it.
    async fn exchange(&self, job: ExchangeJob) -> Exchanged;

    /// The answer to an exchange that an earlier life of this program began, after waiting for it where it is still under
    /// way. `None`: nothing is known of it.
    ///
    /// # Errors
    /// [`Unavailable`](Error::Unavailable) if whoever may know does not answer: ask again.
    async fn recover(&self, ticket: Ticket) -> Result<Option<Exchanged>>;

    /// The answer is stored: nothing of it needs to be kept any more.
    async fn settled(&self, ticket: Ticket);
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, net::UnixStream};

    use super::*;

    /// VLT-10: the clock went on while this process did not, and the answer goes through one more task before it is here.
    #[tokio::test]
    async fn an_answer_that_came_while_the_process_stood_still_is_taken() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let (send, come) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let _ = send.send(near.read_u8().await.unwrap());
        });
        let provider = std::thread::spawn(move || {
            let far = far.into_std().unwrap();
            std::io::Write::write_all(&mut &far, b"!").unwrap();
        });
        let limit = Duration::from_millis(20);
        let waiting = tokio::spawn(within(limit, come));
        tokio::task::yield_now().await;
        // Stands still: the only thread of this runtime.
        provider.join().unwrap();
        std::thread::sleep(2 * limit);
        assert_eq!(waiting.await.unwrap().unwrap().unwrap(), b'!');
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_comes_is_given_up() {
        let limit = Duration::from_secs(30);
        assert!(within(limit, std::future::pending::<()>()).await.is_none());
    }
}
