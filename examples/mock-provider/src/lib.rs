//! An OAuth provider on loopback that can be told to misbehave, and keeps a ledger of what it was asked.
//!
//! For tests, examples, and a first try without an account anywhere. In a test it runs on a thread of its own, so a
//! paused or busy runtime of the test does not matter to it:
//!
//! ```
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! use kissops_mock_provider::{Knobs, MockProvider, NewAccounts, Reply, Rotation, Scope, Step};
//!
//! let mock = MockProvider::start().await?;
//! mock.set(&Scope::All, Knobs { rotation: Some(Rotation::OneTime), ..Knobs::default() })?;
//! let rows = mock.add_accounts(&NewAccounts::named("el_serda"))?;
//! mock.script(&Scope::All, vec![Step::new(Reply::CommitThenDrop)])?;
//! // … refresh rows[0].refresh_token at mock.url("/oauth2/token") …
//! assert_eq!((rows.len(), mock.totals().refreshes.replays), (1, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod api;
mod authorize;
mod body;
mod control;
mod flavour;
mod flow;
mod grants;
mod job;
mod keep;
mod knobs;
mod ledger;
mod mint;
mod parse;
mod server;
mod state;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::{net::TcpListener, sync::oneshot};

pub use control::{ControlError, ImportRow, NewAccounts};
pub use knobs::{Endpoint, Hold, Kill, Knobs, Reply, Rotation, Scope, Step, Storm, TokenStyle};
pub use ledger::{
    AccountView, Ending, GrantView, LedgerView, Outcome, RequestView, Secrets, TokenView, Totals,
};
pub use state::{Client, Counts, Death};

use crate::{flow::Verdict, server::Shared};

/// The id of the client that is there from the beginning.
pub const CLIENT_ID: &str = "mock-client";
/// Its secret.
pub const CLIENT_SECRET: &str = "mock-client-secret";
/// The id of the client without a secret that is there from the beginning.
pub const PUBLIC_CLIENT_ID: &str = "mock-public";

/// A running provider; it ends when this is dropped.
#[derive(Debug)]
pub struct MockProvider {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MockProvider {
    /// On a free port of 127.0.0.1, with a client that has a secret and one that has none.
    ///
    /// # Errors
    /// Whatever hinders a listener or a thread.
    pub async fn start() -> io::Result<Self> {
        Self::start_on(0).await
    }

    /// The same on a port.
    ///
    /// # Errors
    /// Whatever hinders a listener or a thread.
    pub async fn start_on(port: u16) -> io::Result<Self> {
        let mut random = [0; 8];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut random)?;
        Self::start_at(port, u64::from_le_bytes(random)).await
    }

    /// On a port (0: a free one), with tokens that depend on `seed` alone.
    ///
    /// # Errors
    /// Whatever hinders a listener or a thread.
    pub async fn start_at(port: u16, seed: u64) -> io::Result<Self> {
        let (started, starting) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("mock-provider".to_owned())
            .spawn(move || run(port, seed, started, stopped))?;
        let gone = |_| io::Error::other("the provider's thread has ended");
        let (shared, address) = starting.await.map_err(gone)??;
        Ok(Self { shared, address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of one of its endpoints: `mock.url("/oauth2/token")`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.shared.base)
    }

    /// Registers a client, in the place of one of that id.
    ///
    /// # Errors
    /// An id that is not plain text.
    pub fn add_client(&self, client: Client) -> Result<(), ControlError> {
        self.shared.lock().register(client)
    }

    /// Makes accounts with a grant each; gives what `kissops token import` takes.
    ///
    /// # Errors
    /// A client that is not there, names that are not plain text.
    pub fn add_accounts(&self, new: &NewAccounts) -> Result<Vec<ImportRow>, ControlError> {
        self.shared.lock().add_accounts(new)
    }

    /// Every grant that is alive with its current tokens, as `kissops token import` takes them.
    #[must_use]
    pub fn import(&self) -> Vec<ImportRow> {
        self.shared.lock().import()
    }

    /// Sets the knobs of a scope, all of them.
    ///
    /// # Errors
    /// Nobody of that name.
    pub fn set(&self, scope: &Scope, knobs: Knobs) -> Result<(), ControlError> {
        self.shared.lock().set_knobs(scope, knobs)
    }

    /// Adds steps to the script of a scope: the next requests are answered so.
    ///
    /// # Errors
    /// Nobody of that name.
    pub fn script(&self, scope: &Scope, steps: Vec<Step>) -> Result<(), ControlError> {
        self.shared.lock().add_script(scope, steps)
    }

    /// Forgets every step that is still to come.
    pub fn forget_scripts(&self) {
        self.shared.lock().forget_scripts();
    }

    /// Begins or ends a storm of false revocations.
    pub fn storm(&self, storm: Option<Storm>) {
        self.shared.lock().storm = storm;
    }

    /// Lets go on what is held; says how many requests that were.
    #[expect(clippy::must_use_candidate, reason = "most only want it done")]
    pub fn release(&self) -> u32 {
        self.shared.release()
    }

    /// Moves the provider's clock forward.
    pub fn advance(&self, by: Duration) {
        self.shared.lock().clock.advance(i64::try_from(by.as_micros()).unwrap_or(i64::MAX));
    }

    /// Sets the provider's clock, in microseconds since the epoch; it goes on from there, or stands if it was stopped.
    pub fn set_clock(&self, micros: i64) {
        self.shared.lock().clock.set(micros);
    }

    /// Stops the provider's clock: only [`advance`](Self::advance) and [`set_clock`](Self::set_clock) move it then.
    pub fn stop_clock(&self) {
        self.shared.lock().clock.stop();
    }

    /// The provider's clock, in microseconds since the epoch.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.shared.lock().clock.now()
    }

    /// A person approves a device code; false if there is no such code.
    #[must_use]
    pub fn approve_device(&self, user_code: &str, account: &str) -> bool {
        let verdict = Verdict::Approved { account: account.to_owned() };
        self.shared.lock().judge_device(user_code, &verdict)
    }

    /// A person denies a device code; false if there is no such code.
    #[must_use]
    pub fn deny_device(&self, user_code: &str) -> bool {
        self.shared.lock().judge_device(user_code, &Verdict::Denied)
    }

    /// The account withdraws what it has allowed: its tokens die. Gives the number of its grants.
    ///
    /// # Errors
    /// No account of that name.
    pub fn disconnect(&self, account: &str) -> Result<u32, ControlError> {
        self.shared.lock().withdraw(account)
    }

    /// Ends the lives of the account's access tokens now. Gives their number.
    ///
    /// # Errors
    /// No account of that name.
    pub fn expire(&self, account: &str) -> Result<u32, ControlError> {
        self.shared.lock().expire(account)
    }

    /// What was asked, in numbers.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.shared.lock().totals()
    }

    /// Every token and every request.
    #[must_use]
    pub fn ledger(&self, secrets: Secrets) -> LedgerView {
        self.shared.lock().ledger_view(secrets)
    }

    /// An account with its grants, and their live tokens.
    #[must_use]
    pub fn account(&self, name: &str, secrets: Secrets) -> Option<AccountView> {
        self.shared.lock().account_view(name, secrets)
    }

    /// What is known of a token; `None`: it was never issued here.
    #[must_use]
    pub fn lookup(&self, token: &str) -> Option<TokenView> {
        let state = self.shared.lock();
        state.find(token).map(|at| state.token_view(at, Secrets::Hidden))
    }

    /// Accounts, grants and tokens as text, for [`recall`](Self::recall) in another life. To be kept private.
    ///
    /// # Errors
    /// None that is known of.
    pub fn keep(&self) -> Result<String, ControlError> {
        self.shared.lock().keep()
    }

    /// Goes on with accounts, grants and tokens of an earlier life, in the place of those that are there.
    ///
    /// # Errors
    /// A text that [`keep`](Self::keep) has not written; a client that is not there. Nothing has changed.
    pub fn recall(&self, text: &str) -> Result<(), ControlError> {
        self.shared.lock().recall(text)
    }

    /// Forgets everything but the clients.
    pub fn reset(&self) {
        self.shared.lock().reset();
    }
}

impl Drop for MockProvider {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Started = oneshot::Sender<io::Result<(Arc<Shared>, SocketAddr)>>;

/// The provider's thread. What it has spawned ends with its runtime.
fn run(port: u16, seed: u64, started: Started, stopped: oneshot::Receiver<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(err) => return drop(started.send(Err(err))),
    };
    runtime.block_on(async {
        let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => listener,
            Err(err) => return drop(started.send(Err(err))),
        };
        let address = match listener.local_addr() {
            Ok(address) => address,
            Err(err) => return drop(started.send(Err(err))),
        };
        let shared = Shared::new(seed, format!("http://{address}").into());
        {
            let mut state = shared.lock();
            state.add_client(Client::confidential(CLIENT_ID, CLIENT_SECRET));
            state.add_client(Client::public(PUBLIC_CLIENT_ID));
        }
        if started.send(Ok((Arc::clone(&shared), address))).is_err() {
            return;
        }
        tokio::select! {
            _ = stopped => {}
            () = server::serve(listener, shared) => {}
        }
    });
}
