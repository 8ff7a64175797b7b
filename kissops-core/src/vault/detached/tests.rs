//! The two sides against each other, with a scripted sender.

use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use secrecy::{ExposeSecret as _, SecretSlice};
use tokio::sync::Semaphore;

use super::*;
use crate::{
    Timestamp,
    store::{Generation, GrantId},
    vault::{RawAnswer, TokenRequest},
};

/// Answers each request with the URL that it was sent to, once it may.
#[derive(Debug)]
struct Slow {
    may: Semaphore,
    sent: AtomicU32,
}

#[async_trait]
impl Exchanger for Slow {
    async fn exchange(&self, job: ExchangeJob) -> Exchanged {
        self.sent.fetch_add(1, Ordering::SeqCst);
        self.may.acquire().await.unwrap().forget();
        assert_eq!(job.request.form[0].1.expose_secret(), "s3cret");
        if job.request.url == "none" {
            return Exchanged::Unanswered(gone("for a test"));
        }
        Exchanged::Answered(RawAnswer {
            status: 200,
            retry_after: Some("7".into()),
            body: SecretSlice::from(job.request.url.into_bytes()),
            sent_at: Timestamp(1),
            at: Timestamp(2),
        })
    }

    async fn recover(&self, _: Ticket) -> Result<Option<Exchanged>> {
        Ok(None)
    }

    async fn settled(&self, _: Ticket) {}
}

struct Bench {
    dir: tempfile::TempDir,
    slow: Arc<Slow>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, slow: Arc::new(Slow { may: Semaphore::new(0), sent: AtomicU32::new(0) }) }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("exchanger.sock")
    }

    /// A process, as a task.
    fn serve(&self) -> tokio::task::JoinHandle<Result<()>> {
        let _ = std::fs::remove_file(self.socket());
        let listener = OwnedFd::from(UnixListener::bind(self.socket()).unwrap());
        let spool = Spool::new(self.socket().with_extension("answers"));
        tokio::spawn(serve::serve(listener, Arc::clone(&self.slow) as _, spool))
    }

    fn client(&self) -> DetachedExchanger {
        let options = DetachedOptions {
            socket: self.socket(),
            program: Some(Path::new("/does/not/exist").into()),
        };
        let client = DetachedExchanger::new(options, Arc::clone(&self.slow) as _);
        client.key.set(Zeroizing::new([5; 32])).unwrap();
        client
    }

    async fn until_sent(&self, count: u32) {
        let sent = async {
            while self.slow.sent.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), sent).await.unwrap();
    }
}

fn job(attempt: u32, url: &str) -> ExchangeJob {
    ExchangeJob {
        ticket: ticket(attempt),
        request: TokenRequest {
            url: url.into(),
            insecure: false,
            headers: Vec::new(),
            form: vec![("refresh_token".into(), "s3cret".to_owned().into())],
        },
        limit: Duration::from_secs(20),
        send_before: Duration::MAX,
    }
}

fn ticket(attempt: u32) -> Ticket {
    Ticket { grant: GrantId(1), generation: Generation(1), attempt }
}

fn body(exchanged: Exchanged) -> String {
    match exchanged {
        Exchanged::Answered(answer) => {
            assert_eq!((answer.status, answer.retry_after.as_deref()), (200, Some("7")));
            assert_eq!((answer.sent_at, answer.at), (Timestamp(1), Timestamp(2)));
            String::from_utf8(answer.body.expose_secret().to_vec()).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn answers_find_their_askers() {
    let bench = Bench::new();
    let served = bench.serve();
    bench.slow.may.add_permits(100);
    let client = bench.client();
    let asked = (1..=100).map(|n| {
        let client = &client;
        async move { body(client.exchange(job(n, &format!("url {n}"))).await) == format!("url {n}") }
    });
    assert!(futures_util::future::join_all(asked).await.into_iter().all(|right| right));
    bench.slow.may.add_permits(1);
    let exchanged = client.exchange(job(101, "none")).await;
    assert!(matches!(exchanged, Exchanged::Unanswered(_)), "{exchanged:?}");
    drop(client);
    served.await.unwrap().unwrap();
}

/// VLT-10: the daemon dies with a request under way; the next one gets the answer, from the process or from its file.
#[tokio::test]
async fn an_answer_outlives_who_asked_for_it() {
    let bench = Bench::new();
    let served = bench.serve();
    let client = Arc::new(bench.client());
    let asking = Arc::clone(&client);
    let asked = [1, 2].map(|n| {
        let asking = Arc::clone(&asking);
        tokio::spawn(async move { asking.exchange(job(n, "kept")).await })
    });
    bench.until_sent(2).await;
    for task in asked {
        task.abort();
        let _ = task.await;
    }
    drop((asking, client));

    // The process still waits for its answers, and a new daemon comes.
    let next = Arc::new(bench.client());
    let recovering = Arc::clone(&next);
    let first = tokio::spawn(async move { recovering.recover(ticket(1)).await });
    bench.slow.may.add_permits(1);
    assert_eq!(body(first.await.unwrap().unwrap().unwrap()), "kept");
    next.settled(ticket(1)).await;
    drop(next);

    // That one dies, too, and nobody comes before the process has ended.
    bench.slow.may.add_permits(1);
    served.await.unwrap().unwrap();
    let last = bench.client();
    assert_eq!(body(last.recover(ticket(2)).await.unwrap().unwrap()), "kept");
    assert!(last.recover(ticket(1)).await.unwrap().is_none(), "it was settled");
    last.settled(ticket(2)).await;
    assert!(last.recover(ticket(2)).await.unwrap().is_none());
    assert_eq!(bench.slow.sent.load(Ordering::SeqCst), 2, "nothing was sent twice");
}

#[tokio::test]
async fn without_a_process_requests_go_out_from_here() {
    let bench = Bench::new();
    bench.slow.may.add_permits(1);
    assert_eq!(body(bench.client().exchange(job(1, "direct")).await), "direct");
}

/// VLT-10: whoever comes while one is just ending reaches the next, and sends nothing by itself.
#[tokio::test]
async fn one_that_ends_just_then_is_not_taken_for_none() {
    let bench = Bench::new();
    let listener = UnixListener::bind(bench.socket()).unwrap();
    let (slow, spool) = (Arc::clone(&bench.slow), Spool::new(bench.dir.path().join("answers")));
    let served = tokio::spawn(async move {
        let refused = tokio::task::spawn_blocking(move || {
            drop(listener.accept().unwrap());
            listener
        });
        serve::serve(OwnedFd::from(refused.await.unwrap()), slow, spool).await
    });
    bench.slow.may.add_permits(1);
    let direct = Arc::new(Slow { may: Semaphore::new(0), sent: AtomicU32::new(0) });
    let client = DetachedExchanger { direct: Arc::clone(&direct) as _, ..bench.client() };
    assert_eq!(body(client.exchange(job(1, "apart")).await), "apart");
    assert_eq!(direct.sent.load(Ordering::SeqCst), 0);
    drop(client);
    served.await.unwrap().unwrap();
}
