//! Live tokens in a real daemon: with its exchanger, bots that ask for tokens, and a provider that is told to misbehave.

mod canary;
mod fleet;
mod flight;
mod incident;
mod sealed;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use kissops_mock_provider::{
    Client, Hold, ImportRow, Knobs, MockProvider, NewAccounts, Reply, Rotation, Scope, Step,
};
use serde_json::{Value, json};

use crate::harness::{LIMIT, LOOK, Site};

/// The vault's key, and the client's secret: nobody but their owners may know them.
const KEY: &str = "6b1d0cf7a2e94b58830e57c1f4d26a9be3075c9148fd2b60a71e8c35d9024f76";
const CLIENT_SECRET: &str = "client-secret-7c09e2d1b5";

/// A provider, and a daemon that keeps tokens of its accounts.
struct Stage {
    mock: MockProvider,
    site: Site,
}

impl Stage {
    /// Nothing is started, and the vault is empty. `{mock}` in the configuration of the instances is the provider's address.
    fn new(instances: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mock = runtime.block_on(MockProvider::start()).unwrap();
        // A used token is dead, and so is the access token beside it: presented again, it ends the grant.
        let knobs = Knobs { rotation: Some(Rotation::OneTime), ..Knobs::default() };
        mock.add_client(Client::confidential("kiss", CLIENT_SECRET).knobs(knobs)).unwrap();
        let provider = format!(
            "[vault]\nkey = {{ file = \"vault.key\" }}\n\
             [vault.provider.mock]\n\
             token_url = \"{{mock}}/token\"\n\
             device_url = \"{{mock}}/device\"\n\
             validate_url = \"{{mock}}/validate\"\n\
             revoke_url = \"{{mock}}/revoke\"\n\
             rotation = \"one-time\"\n\
             client_id = \"kiss\"\n\
             client_secret = {{ file = \"client.secret\" }}\n\
             settle = \"1s\"\n\
             {instances}"
        );
        let site = Site::new(&provider.replace("{mock}", &mock.url("")));
        write_private(&site.path("vault.key"), KEY);
        write_private(&site.path("client.secret"), CLIENT_SECRET);
        Self { mock, site }
    }

    /// Tokens of these accounts, for the vault.
    fn accounts(&self, names: &[&str]) -> Vec<ImportRow> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        self.mock.add_accounts(&NewAccounts { names, ..NewAccounts::default() }.of("kiss")).unwrap()
    }

    /// Puts them into the vault.
    #[track_caller]
    fn import(&self, rows: &[ImportRow]) {
        let (status, done) =
            self.site.ask("POST", "/v1/tokens/import", Some(&json!({ "tokens": rows })));
        assert_eq!((status, &done["imported"]), (200, &json!(rows.len())), "{done}");
    }

    /// A daemon with these accounts in its vault.
    #[track_caller]
    fn started(instances: &str, accounts: &[&str]) -> Self {
        let mut stage = Self::new(instances);
        stage.site.start();
        stage.import(&stage.accounts(accounts));
        stage
    }

    #[track_caller]
    fn grant(&self, account: &str) -> Value {
        self.site.get(&format!("/v1/tokens/mock/{account}"))
    }

    #[track_caller]
    fn until_grant(&self, account: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let grant = self.grant(account);
            if is(&grant) {
                return grant;
            }
            assert!(Instant::now() < deadline, "not in time: {what}: {grant}");
            std::thread::sleep(LOOK);
        }
    }

    /// A new generation of an account's tokens, asked for by the operator.
    #[track_caller]
    fn refresh(&self, account: &str) {
        let (status, grant) =
            self.site.ask("POST", &format!("/v1/tokens/mock/{account}/refresh"), None);
        assert_eq!((status, &grant["state"]), (200, &json!("active")), "{grant}");
    }

    /// The access token that the vault has of an account.
    #[track_caller]
    fn revealed(&self, account: &str) -> String {
        let (status, told) =
            self.site.ask("POST", &format!("/v1/tokens/mock/{account}/reveal"), None);
        assert_eq!(status, 200, "{told}");
        told["access_token"].as_str().unwrap().to_owned()
    }

    /// The vault's token is one that the provider takes.
    #[track_caller]
    fn token_is_live(&self, account: &str) {
        let known = self.mock.lookup(&self.revealed(account)).expect("a token of the provider's");
        assert!(known.live, "{known:?}");
    }

    /// Events of that kind.
    fn told(&self, kind: &str) -> Vec<Value> {
        self.site.events("").into_iter().filter(|event| event["kind"] == kind).collect()
    }

    /// The next refresh is carried out, and its answer held back until the provider is told to let it go.
    fn hold_the_next_answer(&self) {
        let step = Step::new(Reply::Ok).hold(Hold::AfterCommit);
        self.mock.script(&Scope::All, vec![step]).unwrap();
    }
}

/// The provider has seen no token twice that may be used once, and none in an address.
#[track_caller]
fn nothing_was_presented_twice(mock: &MockProvider) {
    let totals = mock.totals();
    assert_eq!((totals.refreshes.replays, totals.secrets_in_urls), (0, 0), "{totals:?}");
}

fn write_private(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new();
    let file = file.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.unwrap().write_all(text.as_bytes()).unwrap();
}

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// A program of another package, if it was built: the whole workspace builds it.
fn built(path: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_BIN_EXE_kissopsd")).with_file_name(path);
    let found = found.exists().then_some(found);
    if found.is_none() {
        eprintln!("skipped: {path} was not built; cargo build --workspace --examples builds it");
    }
    found
}
