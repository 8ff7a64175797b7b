//! The HTTP side: connections, routes, and the way of a request.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
};

use crate::{
    api, authorize,
    body::{Answer, Gone, Sent, collect},
    flavour::Flavour,
    job::{Job, Plan},
    knobs::{Endpoint, Hold},
    parse,
    state::State,
};

const LARGEST_FORM: usize = 256 << 10;
const LARGEST_CONTROL: usize = 64 << 20;

/// What connections and the control side share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    releases: watch::Sender<u64>,
    pub(crate) base: Arc<str>,
}

impl Shared {
    pub(crate) fn new(seed: u64, base: Arc<str>) -> Arc<Self> {
        let (releases, _) = watch::channel(0);
        Arc::new(Self { state: Mutex::new(State::new(seed)), releases, base })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go on what stops now; says how many that were.
    pub(crate) fn release(&self) -> u32 {
        let held = self.lock().held;
        self.releases.send_modify(|releases| *releases += 1);
        held
    }

    async fn stay(&self, time: Duration, held: Hold, plan: &Plan) {
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        if plan.hold == Some(held) {
            let mut released = self.releases.subscribe();
            self.lock().held += 1;
            let _ = released.changed().await;
            let mut state = self.lock();
            state.held = state.held.saturating_sub(1);
        }
    }
}

/// Serves until the runtime ends.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Ends with its client, or with the runtime, which belongs to this server alone.
                tokio::spawn(connection(stream, Arc::clone(&shared)));
            }
            // Out of descriptors: some will be free again.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| handle(request, Arc::clone(&shared)));
    // An error is a client that went away, or a connection that was closed on purpose.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn handle(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Sent>, Gone> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if let Some(rest) = path.strip_prefix("/_mock") {
        let body = collect(body, LARGEST_CONTROL).await?;
        let query = head.uri.query().unwrap_or_default();
        return Ok(api::answer(&shared, &head.method, rest, query, &body).into_response());
    }
    if path == "/activate" {
        let body = collect(body, LARGEST_FORM).await?;
        return Ok(authorize::activate(&shared, &head, &body).into_response());
    }
    if path == "/authorize" || path == "/oauth2/authorize" {
        return Ok(authorize::authorize(&shared, &head).into_response());
    }
    let Some((endpoint, flavour)) = route(head.method.as_str(), path) else {
        let found = Answer::html(404, "<html><h1>404 Not Found</h1></html>");
        return Ok(found.into_response());
    };
    let body = collect(body, LARGEST_FORM).await?;
    let (job, leaked) = parse::job(&head, &body, endpoint, flavour, Arc::clone(&shared.base));
    if leaked {
        shared.lock().ledger.secrets_in_urls += 1;
    }
    Ok(run(shared, job).await?.into_response())
}

fn route(method: &str, path: &str) -> Option<(Endpoint, Flavour)> {
    use Endpoint::{Api, Device, Revoke, Token, Validate};
    use Flavour::{Discord, Generic, Google, Reddit, Spotify, Twitch};
    // Discord's API has a version in its paths, or none.
    let path = path
        .strip_prefix("/discord/api/v10")
        .map_or_else(|| path.to_owned(), |rest| format!("/discord/api{rest}"));
    Some(match (method, path.as_str()) {
        ("POST", "/oauth2/token") => (Token, Twitch),
        ("POST", "/oauth2/device") => (Device, Twitch),
        ("GET", "/oauth2/validate") => (Validate, Twitch),
        ("POST", "/oauth2/revoke") => (Revoke, Twitch),
        ("GET", "/helix/users") => (Api, Twitch),
        ("POST", "/token") => (Token, Generic),
        ("POST", "/device") => (Device, Generic),
        ("GET" | "POST", "/validate") | ("POST", "/introspect") => (Validate, Generic),
        ("POST", "/revoke") => (Revoke, Generic),
        ("GET", "/userinfo") => (Api, Generic),
        ("POST", "/discord/api/oauth2/token") => (Token, Discord),
        ("POST", "/discord/api/oauth2/token/revoke") => (Revoke, Discord),
        ("GET", "/discord/api/oauth2/@me") => (Validate, Discord),
        ("GET", "/discord/api/users/@me") => (Api, Discord),
        ("POST", "/google/token") => (Token, Google),
        ("POST", "/google/device/code") => (Device, Google),
        ("POST", "/google/revoke") => (Revoke, Google),
        ("GET" | "POST", "/google/tokeninfo") => (Validate, Google),
        ("GET", "/google/userinfo") => (Api, Google),
        ("POST", "/reddit/api/v1/access_token") => (Token, Reddit),
        ("POST", "/reddit/api/v1/revoke_token") => (Revoke, Reddit),
        ("GET", "/reddit/api/v1/me") => (Validate, Reddit),
        ("POST", "/spotify/api/token") => (Token, Spotify),
        ("GET", "/spotify/v1/me") => (Validate, Spotify),
        _ => return None,
    })
}

async fn run(shared: Arc<Shared>, job: Job) -> Result<Answer, Gone> {
    let plan = shared.lock().plan(&job);
    if plan.is_instant() {
        let mut state = shared.lock();
        let done = state.perform(&job, &plan);
        return state.answer(&job, &plan, done).ok_or(Gone);
    }
    let (send, receive) = oneshot::channel();
    // A provider that has begun goes on, whether or not its client still listens. Ends with the runtime.
    tokio::spawn(async move {
        shared.stay(plan.before, Hold::BeforeCommit, &plan).await;
        let done = shared.lock().perform(&job, &plan);
        shared.stay(plan.after, Hold::AfterCommit, &plan).await;
        let mut state = shared.lock();
        if send.is_closed() {
            state.abandoned(&plan);
        } else {
            let _ = send.send(state.answer(&job, &plan, done));
        }
    });
    receive.await.ok().flatten().ok_or(Gone)
}
