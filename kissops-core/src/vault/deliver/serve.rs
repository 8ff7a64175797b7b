//! Connections of bots: who may have one, and how it is served.

use std::{convert::Infallible, pin::pin, sync::Arc, sync::atomic::Ordering, time::Duration};

use hyper::{Request, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::UnixStream, sync::OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::{
    Bot, CONNECTIONS, Inner, MOST_CONNECTIONS,
    answer::{Answer, Problem},
    route,
    socket::BotSocket,
};
use crate::{clock, id::RunId, supervisor::PeerProcess};

/// A request's head has to come within this time, and an idle connection is closed after it.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// hyper's smallest read buffer: a request's head has to fit.
const HEADER_BYTES: usize = 8 << 10;
/// Requests that are under way at the end get so long.
const FAREWELL: Duration = Duration::from_secs(2);
/// A process may connect before we have noted that it runs: so often we look again.
const LOOKS: [u64; 6] = [0, 2, 10, 40, 150, 300];
/// Strangers are told of so often at most, for each instance.
const TELL: Duration = Duration::from_mins(1);

/// Accepts until the end.
pub(super) async fn listen(
    inner: Arc<Inner>,
    bot: Arc<Bot>,
    socket: Arc<BotSocket>,
    ended: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = ended.cancelled() => return,
            accepted = socket.listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => inner.admit(&bot, stream, &ended),
            Err(err) => {
                // Out of descriptors, say: the queue of the socket waits with us.
                tracing::warn!(instance = %bot.name, error = %err, "cannot accept a connection of a bot");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What a connection may hope for.
#[derive(Clone, Copy)]
enum Admission {
    /// Answers, for as long as its instance's run is this one.
    Served(RunId),
    /// One answer: no.
    Stranger,
    /// One answer: later, when it has fewer than so many.
    Busy(usize),
}

impl Inner {
    fn admit(self: &Arc<Self>, bot: &Arc<Bot>, stream: UnixStream, ended: &CancellationToken) {
        let Ok(cred) = stream.peer_cred() else { return };
        let ours = rustix::process::geteuid().as_raw();
        let user = cred.uid() == 0 || cred.uid() == ours || Some(cred.uid()) == bot.user;
        let peer = cred.pid().filter(|_| user).map(|pid| PeerProcess::of(&stream, pid));
        let most = (CONNECTIONS + self.tokens_of(bot).len()).min(MOST_CONNECTIONS);
        let is_free = MOST_CONNECTIONS - bot.places.available_permits() < most;
        let place = is_free.then(|| Arc::clone(&bot.places).try_acquire_owned().ok()).flatten();
        let (peer, place) = match (peer, place) {
            (Some(peer), Some(place)) => (Some(peer), place),
            (peer, _) => {
                // Whoever finds no place of either kind is hung up on.
                let Ok(place) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
                let busy = peer.is_some().then_some(most);
                self.refuse(bot, cred.pid(), cred.uid(), busy);
                let admission = busy.map_or(Admission::Stranger, Admission::Busy);
                let serving =
                    serve(Arc::clone(self), Arc::clone(bot), stream, admission, ended.clone());
                self.tasks.spawn(hold(place, serving));
                return;
            }
        };
        let (inner, bot, ended) = (Arc::clone(self), Arc::clone(bot), ended.clone());
        let serving = async move {
            let run = match &peer {
                Some(peer) => inner.recognize(&bot, peer).await,
                None => None,
            };
            let admission = run.map_or(Admission::Stranger, Admission::Served);
            if run.is_none() {
                inner.refuse(&bot, cred.pid(), cred.uid(), None);
            }
            serve(inner, bot, stream, admission, ended).await;
        };
        self.tasks.spawn(hold(place, serving));
    }

    /// The run that a process is of, if that is the instance's own.
    async fn recognize(&self, bot: &Bot, peer: &PeerProcess) -> Option<RunId> {
        for pause in LOOKS {
            if pause > 0 {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            let supervisor = self.supervisor()?;
            if let Some(run) = supervisor.run_of_peer(&bot.name, peer) {
                return Some(run);
            }
        }
        None
    }

    fn refuse(&self, bot: &Bot, pid: Option<i32>, uid: u32, busy: Option<usize>) {
        if busy.is_some() {
            self.counts.busy.fetch_add(1, Ordering::Relaxed);
        } else {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
        }
        let now = u64::try_from(clock::now().0).unwrap_or(0);
        let told = bot.told_at.load(Ordering::Relaxed);
        if now.abs_diff(told) < u64::try_from(TELL.as_micros()).unwrap_or(u64::MAX) {
            return;
        }
        bot.told_at.store(now, Ordering::Relaxed);
        let pid = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
        let why = if let Some(most) = busy {
            format!("it has {most} connections to its socket already; process {pid} wanted another")
        } else {
            format!(
                "process {pid} of uid {uid}, which is none of its own, asked at its socket and was refused"
            )
        };
        tracing::warn!(instance = %bot.name, "{why}");
        if let Some(supervisor) = self.supervisor() {
            supervisor.note_of(
                &bot.name,
                if busy.is_some() { "socket.busy" } else { "socket.refused" },
                &why,
            );
        }
    }
}

async fn hold(place: OwnedSemaphorePermit, serving: impl Future<Output = ()>) {
    serving.await;
    drop(place);
}

async fn serve(
    inner: Arc<Inner>,
    bot: Arc<Bot>,
    stream: UnixStream,
    admission: Admission,
    ended: CancellationToken,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let (inner, bot) = (Arc::clone(&inner), Arc::clone(&bot));
        async move {
            let answer = match admission {
                Admission::Served(run) => answer(&inner, &bot, run, request).await,
                Admission::Stranger => Err(stranger(&bot)),
                Admission::Busy(most) => Err(busy(most)),
            };
            Ok::<Answer, Infallible>(answer.unwrap_or_else(|problem| problem.answer()))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .max_buf_size(HEADER_BYTES)
            .keep_alive(matches!(admission, Admission::Served(_)))
            .serve_connection(TokioIo::new(stream), service)
    );
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = ended.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(err) = done {
        tracing::debug!(instance = %bot.name, error = %err, "a connection of a bot ended early");
    }
}

async fn answer(
    inner: &Arc<Inner>,
    bot: &Arc<Bot>,
    run: RunId,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    inner.counts.requests.fetch_add(1, Ordering::Relaxed);
    let supervisor = inner.supervisor().ok_or_else(|| {
        let help = "it comes back with the daemon; connect again";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "closed", "the supervisor has ended", help)
    })?;
    // Somebody may hold on to a connection of a process that is gone.
    if supervisor.present_run(&bot.name) != Some(run) {
        return Err(stranger(bot));
    }
    route::answer(inner, &supervisor, bot, run, request).await
}

fn stranger(bot: &Bot) -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "not_this_instance",
        format!("only processes of `{}` may ask here", bot.name),
        "a process that has left its session and its parents is not known any more: ask from the bot's own process",
    )
}

fn busy(most: usize) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "busy",
        format!("this instance has {most} connections already"),
        "close those that are not used, or use one for several requests",
    )
}
