//! The API on a unix socket: the folder's mode keeps others out, the peer's uid is checked once more.

use std::{
    convert::Infallible,
    fs,
    future::Future,
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{Api, Problem, router};
use crate::{Error, Result};

/// The socket's name in the runtime folder.
pub const SOCKET_NAME: &str = "control.sock";

/// Bound under this name first, so that the socket appears under its own name only with its rights set.
const NEW_NAME: &str = ".control.new";
/// `sun_path` of unix(7) has 108 bytes, the last of which is zero.
const LONGEST_PATH: usize = 107;
/// Most connections at once; further ones are told that we are busy.
const CONNECTIONS: usize = 256;
/// Most connections that are being told so at once; further ones are closed without a word.
const REFUSALS: usize = 32;
/// A request's head has to come within this time, and an idle connection is closed after it.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// hyper's smallest read buffer: a request's head has to fit.
const HEADER_BYTES: usize = 16 << 10;
/// How often we look whether our socket can still be reached by its name.
const LOOK: Duration = Duration::from_secs(5);
/// Requests that are under way at a shutdown get so long to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// A bound control socket, `<runtime_dir>/control.sock`. Its file goes when it is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: a successor's socket of the same name is not ours to remove.
    file: (u64, u64),
}

impl ControlSocket {
    /// Binds the socket, mode 600, in `runtime_dir`, which is made or set to mode 700. A dead predecessor's is replaced.
    ///
    /// # Errors
    /// [`Conflict`](Error::Conflict) if somebody answers there, [`Denied`](Error::Denied) if the folder is another
    /// user's or something else lies there, [`InvalidConfig`](Error::InvalidConfig) if the path is too long for a
    /// socket, else [`Io`](Error::Io).
    pub fn bind(runtime_dir: &Path) -> Result<Self> {
        let path = runtime_dir.join(SOCKET_NAME);
        if path.as_os_str().len() > LONGEST_PATH {
            let rule = format!(
                "is too long: the socket {} would have {} bytes, and at most {LONGEST_PATH} are possible",
                path.display(),
                path.as_os_str().len()
            );
            return Err(Error::invalid("daemon.runtime_dir", rule));
        }
        prepare(runtime_dir)?;
        refuse_living(&path)?;
        let new = runtime_dir.join(NEW_NAME);
        match fs::remove_file(&new) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove {}", new.display()))(err));
            }
            _ => {}
        }
        let shown = path.display();
        let listener =
            UnixListener::bind(&new).map_err(Error::io(format!("bind the socket {shown}")))?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))
            .map_err(Error::io(format!("set the rights of {}", new.display())))?;
        let meta =
            fs::symlink_metadata(&new).map_err(Error::io(format!("look at {}", new.display())))?;
        fs::rename(&new, &path).map_err(Error::io(format!("put the socket at {shown}")))?;
        Ok(Self { listener, path, file: (meta.dev(), meta.ino()) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another at the same place if the file is gone, as after somebody has cleaned `/run`: nobody could reach us any
    /// more, not even to end us in order.
    fn renewed(&self) -> Option<Self> {
        match fs::symlink_metadata(&self.path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            _ => return None,
        }
        match Self::bind(self.path.parent()?) {
            Ok(socket) => {
                tracing::warn!(path = %self.path.display(), "the control socket was removed; here is another");
                Some(socket)
            }
            Err(err) => {
                tracing::error!(error = %err.chain(), "the control socket was removed; there is no other yet");
                None
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.file);
        if ours {
            // Best effort: whoever comes next replaces a socket that nobody answers.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn our_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The folder is there, ours, and closed to others.
fn prepare(folder: &Path) -> Result<()> {
    let shown = folder.display();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(Error::io(format!("make the folder {shown}")))?;
    let meta = fs::metadata(folder).map_err(Error::io(format!("look at {shown}")))?;
    if meta.uid() != our_uid() {
        return Err(Error::Denied {
            what: format!("the folder {shown} belongs to another user (uid {})", meta.uid()),
            help: "give it to the daemon's user, or set daemon.runtime_dir to a folder of its own"
                .to_owned(),
        });
    }
    if meta.mode() & 0o777 != 0o700 {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
            .map_err(Error::io(format!("set the rights of {shown}")))?;
    }
    Ok(())
}

/// Nobody answers at `path`, and what lies there, if anything, is a socket.
fn refuse_living(path: &Path) -> Result<()> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(Error::io(format!("look at {shown}"))(err)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(Error::Denied {
                what: format!("{shown} is not a socket"),
                help: "move it away, or set daemon.runtime_dir to another folder".to_owned(),
            });
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(Error::Conflict {
            what: format!("the control socket {shown}"),
            holder: "a daemon that answers there".to_owned(),
        }),
        Err(_) => Ok(()),
    }
}

/// A client of the API at `socket`. Requests go to `http://kissops/…`.
///
/// # Errors
/// [`Unavailable`](Error::Unavailable) if the system's resolver cannot be set up.
pub fn client(socket: &Path) -> Result<reqwest::Client> {
    let built = crate::plain::client().unix_socket(socket).build();
    built.map_err(Error::unavailable("the HTTP client"))
}

/// Who is at the other end of a unix socket, as the kernel says. An extension of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its process, where the kernel says.
    pub pid: Option<i32>,
}

/// Tells streams that they shall end: an extension of each request, without which they run until their fleet ends.
#[derive(Clone, Debug, Default)]
pub struct Closing(CancellationToken);

impl Closing {
    /// Resolves when streams shall end.
    pub(super) async fn wait(&self) {
        self.0.cancelled().await;
    }
}

/// Serves the API on `socket` until `shutdown` resolves, and gives what is under way two seconds more. A socket whose file
/// is removed is replaced within 5 s.
///
/// A peer must be root or our own user; others are answered 403. At most 256 connections, a head of 16 KiB within
/// 5 s, a body of 1 MiB within 10 s.
///
/// # Cancel safety
/// Dropped, it closes the socket and every connection at once.
pub async fn serve_unix(
    mut socket: ControlSocket,
    api: impl Into<Api>,
    shutdown: impl Future<Output = ()>,
) {
    let closing = CancellationToken::new();
    let places = Places::default();
    let service = TowerToHyperService::new(router(api));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            _ = look.tick() => {
                if let Some(renewed) = socket.renewed() {
                    socket = renewed;
                }
                continue;
            }
            accepted = socket.listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // Whoever finds no place of either kind is hung up on.
                if let Some((admission, place)) = places.take() {
                    let serving = serve(stream, service.clone(), closing.clone(), admission);
                    connections.spawn(async move {
                        serving.await;
                        drop(place);
                    });
                }
            }
            Err(err) => {
                // Out of descriptors, say: the queue of the socket waits with us.
                tracing::warn!(error = %err, "cannot accept a control connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(socket);
    closing.cancel();
    // Each connection ends by itself within FAREWELL.
    while connections.join_next().await.is_some() {}
}

/// What a connection may hope for.
#[derive(Clone, Copy)]
enum Admission {
    /// Answers.
    Served,
    /// One answer: that there are too many.
    TurnedAway,
}

struct Places {
    served: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            served: Arc::new(Semaphore::new(CONNECTIONS)),
            turned_away: Arc::new(Semaphore::new(REFUSALS)),
        }
    }
}

impl Places {
    fn take(&self) -> Option<(Admission, OwnedSemaphorePermit)> {
        let of = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        match of(&self.served) {
            Some(place) => Some((Admission::Served, place)),
            None => Some((Admission::TurnedAway, of(&self.turned_away)?)),
        }
    }
}

async fn serve(
    stream: UnixStream,
    api: TowerToHyperService<Router>,
    closing: CancellationToken,
    admission: Admission,
) {
    let peer = match stream.peer_cred() {
        Ok(cred) => Peer { uid: cred.uid(), pid: cred.pid() },
        Err(err) => {
            tracing::warn!(error = %err, "a control connection without credentials is refused");
            return;
        }
    };
    let allowed = peer.uid == 0 || peer.uid == our_uid();
    let streams = Closing(closing.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (api, streams) = (api.clone(), streams.clone());
        async move {
            if matches!(admission, Admission::TurnedAway) {
                return Ok(too_many());
            }
            if !allowed {
                return Ok::<Response, Infallible>(refuse(peer));
            }
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(streams);
            api.call(request).await
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .max_buf_size(HEADER_BYTES)
            .keep_alive(matches!(admission, Admission::Served))
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(err) = ended {
        tracing::debug!(error = %err, "a control connection ended early");
    }
}

fn refuse(peer: Peer) -> Response {
    tracing::warn!(uid = peer.uid, pid = ?peer.pid, "a control connection of another user is refused");
    Problem::from(Error::Denied {
        what: format!("uid {} may not control this daemon", peer.uid),
        help: format!("ask as root or as the daemon's own user (uid {})", our_uid()),
    })
    .into_response()
}

fn too_many() -> Response {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "busy",
        format!("the daemon already serves {CONNECTIONS} connections"),
        "end a kissops logs -f or kissops events -f, or try again",
    )
    .into_response()
}
