//! Every flow of every built-in provider against a provider that speaks as they do.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use kissops_mock_provider::{
    CLIENT_ID, CLIENT_SECRET, Endpoint, Knobs, MockProvider, NewAccounts, PUBLIC_CLIENT_ID, Reply,
    Scope, Step,
};
use reqwest::Url;
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    Timestamp, clock,
    store::{Generation, GrantId},
    vault::{Client, ExchangeJob, Exchanger, HttpExchanger, Profile, RotationClass, Ticket},
};

/// The built-in profile of `name`, with the mock's addresses in the place of the real ones.
fn profile(mock: &MockProvider, name: &str) -> Profile {
    let Some(mut profile) = Profile::builtin(name) else {
        let mut own = Profile::new(&mock.url("/token"));
        own.validate_url = Some(mock.url("/validate"));
        own.revoke_url = Some(mock.url("/revoke"));
        own.device_url = Some(mock.url("/device"));
        own.authorize_url = Some(mock.url("/authorize"));
        own.rotation = RotationClass::Reusable;
        return own;
    };
    let folder = if name == "twitch" { String::new() } else { format!("/{name}") };
    let others = [&mut profile.validate_url, &mut profile.revoke_url, &mut profile.device_url];
    for url in others.into_iter().flatten().chain([&mut profile.token_url]) {
        *url = mock.url(&format!("{folder}{}", Url::parse(url).unwrap().path()));
    }
    profile.authorize_url = Some(mock.url("/authorize"));
    profile
}

fn provider(mock: &MockProvider, name: &str, client: Client) -> Arc<Provider> {
    Arc::new(Provider::new(name, profile(mock, name), client).unwrap())
}

fn confidential() -> Client {
    Client { id: CLIENT_ID.into(), secret: Some(CLIENT_SECRET.into()) }
}

fn public() -> Client {
    Client { id: PUBLIC_CLIENT_ID.into(), secret: None }
}

const ALL: [&str; 6] = ["twitch", "discord", "google", "reddit", "spotify", "own"];

async fn exchange(request: TokenRequest) -> RawAnswer {
    let job = ExchangeJob {
        ticket: Ticket { grant: GrantId(1), generation: Generation(1), attempt: 1 },
        request,
        limit: Duration::from_secs(20),
        send_before: clock::since_boot() + Duration::from_secs(20),
    };
    match HttpExchanger::new(Http::new().unwrap()).exchange(job).await {
        Exchanged::Answered(answer) => answer,
        other => panic!("{other:?}"),
    }
}

/// Sleeping moves the provider's clock and returns at once.
#[derive(Debug)]
struct MockTime {
    mock: Arc<MockProvider>,
    slept: Mutex<Duration>,
}

impl MockTime {
    fn new(mock: &Arc<MockProvider>) -> Arc<Self> {
        mock.stop_clock();
        Arc::new(Self { mock: Arc::clone(mock), slept: Mutex::default() })
    }
}

#[async_trait]
impl VaultTime for MockTime {
    fn now(&self) -> Timestamp {
        Timestamp(self.mock.now())
    }

    fn elapsed(&self) -> Duration {
        *self.slept.lock().unwrap()
    }

    async fn sleep_until(&self, until: Duration) {
        let mut slept = self.slept.lock().unwrap();
        self.mock.advance(until.saturating_sub(*slept));
        *slept = until.max(*slept);
    }
}

fn authorizer(mock: &Arc<MockProvider>, name: &str, client: Client) -> (Authorizer, Arc<MockTime>) {
    let time = MockTime::new(mock);
    let provider = provider(mock, name, client);
    (Authorizer::new(provider, Http::new().unwrap(), Arc::clone(&time) as _), time)
}

async fn mock() -> Arc<MockProvider> {
    Arc::new(MockProvider::start().await.unwrap())
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[tokio::test]
async fn vlt_5_every_provider_refreshes_probes_and_revokes() {
    let mock = mock().await;
    let http = Http::new().unwrap();
    for name in ALL {
        let provider = provider(&mock, name, confidential());
        let rows = mock.add_accounts(&NewAccounts::named(&format!("ann_{name}"))).unwrap();
        let refresh = rows[0].refresh_token.as_str().into();
        let Answer::Tokens(tokens) =
            provider.read(&exchange(provider.refresh_request(&refresh)).await)
        else {
            panic!("{name}");
        };
        let probed = provider.probe(&http, &tokens.access).await;
        let Probed::Good { account, .. } = probed else { panic!("{name}: {probed:?}") };
        assert!(
            account.iter().any(|known| known.contains(&rows[0].account)),
            "{name}: {account:?}"
        );
        if name != "spotify" {
            provider.revoke(&http, &tokens.access, tokens.refresh.as_ref()).await.unwrap();
            // Once more is no error, unless it says nothing of the refresh token.
            let again = provider.revoke(&http, &tokens.access, tokens.refresh.as_ref()).await;
            if name == "twitch" {
                let said = again.unwrap_err().chain();
                assert!(said.contains("https://www.twitch.tv/settings/connections"), "{said}");
                provider.revoke(&http, &tokens.access, None).await.unwrap();
            } else {
                again.unwrap();
            }
            let probed = provider.probe(&http, &tokens.access).await;
            assert!(matches!(probed, Probed::Dead { .. }), "{name}: {probed:?}");
        }
    }
    let totals = mock.totals();
    assert_eq!((totals.secrets_in_urls, totals.refreshes.replays), (0, 0));
}

#[tokio::test]
async fn vlt_8_every_provider_refuses_dead_tokens_and_wrong_secrets() {
    let mock = mock().await;
    for name in ALL {
        let good = provider(&mock, name, confidential());
        let answer = good.read(&exchange(good.refresh_request(&"n0such".into())).await);
        assert!(matches!(answer, Answer::Terminal { .. }), "{name}: {answer:?}");
        let rows = mock.add_accounts(&NewAccounts::named("bob")).unwrap();
        let wrong = Client { secret: Some("wr0ng".into()), ..confidential() };
        let wrong = provider(&mock, name, wrong);
        let refresh = rows[0].refresh_token.as_str().into();
        let answer = wrong.read(&exchange(wrong.refresh_request(&refresh)).await);
        assert!(matches!(answer, Answer::Misconfigured { .. }), "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn vlt_8_what_goes_wrong_at_a_provider_is_sorted() {
    let mock = mock().await;
    let twitch = provider(&mock, "twitch", confidential());
    for (reply, wanted) in [
        (Reply::Ok, "Tokens"),
        (Reply::InvalidGrant, "Terminal"),
        (Reply::InvalidClient, "Misconfigured"),
        (Reply::NotFound, "Retry"),
        (Reply::TooManyRequests, "Retry"),
        (Reply::ServerError, "Retry"),
        (Reply::BadGateway, "Retry"),
        (Reply::Unavailable, "Retry"),
        (Reply::Redirect, "Retry"),
        (Reply::MissingExpiresIn, "Tokens"),
        (Reply::MissingScope, "Tokens"),
        (Reply::NullScopes, "Tokens"),
        (Reply::MissingTokenType, "Tokens"),
        (Reply::EmptyAccessToken, "Unclear"),
    ] {
        let rows = mock.add_accounts(&NewAccounts::named("ann")).unwrap();
        mock.script(&Scope::All, vec![Step::new(reply)]).unwrap();
        let refresh = rows[0].refresh_token.as_str().into();
        let answer = twitch.read(&exchange(twitch.refresh_request(&refresh)).await);
        assert!(format!("{answer:?}").starts_with(wanted), "{reply:?}: {answer:?}");
    }
}

#[tokio::test]
async fn vlt_5_the_client_gets_a_token_of_its_own() {
    let mock = mock().await;
    let (twitch, _) = authorizer(&mock, "twitch", confidential());
    let scopes = set(&["user:bot"]);
    let got = twitch.client_credentials("app", &scopes).await.unwrap();
    assert_eq!(
        (got.key.to_string(), got.flow),
        ("twitch/app".into(), GrantFlow::ClientCredentials)
    );
    assert!(got.tokens.refresh.is_none());
    let wrong = Client { secret: Some("wr0ng".into()), ..confidential() };
    let (wrong, _) = authorizer(&mock, "twitch", wrong);
    let err = wrong.client_credentials("app", &scopes).await.unwrap_err();
    assert!(err.chain().contains("[vault.provider.twitch]"), "{}", err.chain());
}

#[tokio::test]
async fn vlt_5_a_device_code_is_asked_about_until_it_is_approved() {
    for (name, client) in [("twitch", public()), ("google", confidential()), ("own", public())] {
        let mock = mock().await;
        let (authorizer, time) = authorizer(&mock, name, client);
        let code = authorizer.device_code(&set(&["b", "a"])).await.unwrap();
        assert!(code.verification_uri.starts_with("http"), "{code:?}");
        // It is approved after a minute, while the wait goes on.
        let (clock, user_code) = (Arc::clone(&time), code.user_code.clone());
        let owner = tokio::spawn({
            let mock = Arc::clone(&mock);
            async move {
                while clock.elapsed() < Duration::from_mins(1) {
                    tokio::task::yield_now().await;
                }
                assert!(mock.approve_device(&user_code, "ann"));
            }
        });
        let account = if name == "google" { "ann@example.org" } else { "ann" };
        let got = authorizer.wait(&code, account).await.unwrap();
        owner.await.unwrap();
        assert_eq!(got.tokens.scopes, Some(set(&["a", "b"])), "{name}");
        assert_eq!((got.flow, got.tokens.refresh.is_some()), (GrantFlow::DeviceCode, true));
        let shown = format!("{code:?} {got:?}");
        assert!(!shown.contains(got.tokens.access.expose_secret()), "{shown}");
        let asked = mock.totals().outcomes;
        assert!(!asked.contains_key("rate_limited") && asked["pending"] >= 5, "{asked:?}");
    }
}

#[tokio::test]
async fn vlt_5_a_device_code_is_denied_or_expires() {
    for name in ["twitch", "google", "own"] {
        let mock = mock().await;
        let client = if name == "google" { confidential() } else { public() };
        let (authorizer, time) = authorizer(&mock, name, client);
        let code = authorizer.device_code(&BTreeSet::new()).await.unwrap();
        assert!(mock.deny_device(&code.user_code));
        let err = authorizer.wait(&code, "ann").await.unwrap_err();
        assert!(matches!(err, Error::Denied { .. }), "{name}: {err:?}");
        let code = authorizer.device_code(&BTreeSet::new()).await.unwrap();
        let begun = time.elapsed();
        let err = authorizer.wait(&code, "ann").await.unwrap_err();
        assert!(matches!(err, Error::WrongState { .. }), "{name}: {err:?}");
        assert!(time.elapsed() <= begun + Duration::from_mins(30), "{name}");
    }
    let mock = mock().await;
    let (discord, _) = authorizer(&mock, "discord", confidential());
    assert!(matches!(discord.device_code(&BTreeSet::new()).await, Err(Error::WrongState { .. })));
}

#[tokio::test]
async fn vlt_5_a_provider_that_is_away_for_a_moment_is_asked_again() {
    let mock = mock().await;
    let (twitch, _) = authorizer(&mock, "twitch", public());
    let code = twitch.device_code(&BTreeSet::new()).await.unwrap();
    let replies =
        [Reply::Unavailable, Reply::DropBeforeCommit, Reply::TooManyRequests, Reply::BadGateway];
    mock.script(&Scope::All, replies.map(Step::new).into()).unwrap();
    assert!(mock.approve_device(&code.user_code, "ann"));
    assert_eq!(twitch.wait(&code, "ANN").await.unwrap().key.account, "ANN");
}

#[tokio::test]
async fn vlt_5_tokens_of_another_account_are_not_taken() {
    let mock = mock().await;
    let (twitch, _) = authorizer(&mock, "twitch", public());
    let code = twitch.device_code(&BTreeSet::new()).await.unwrap();
    assert!(mock.approve_device(&code.user_code, "bob"));
    let err = twitch.wait(&code, "ann").await.unwrap_err();
    assert!(matches!(err, Error::Denied { .. }), "{err:?}");
    assert!(err.chain().contains("bob") && err.chain().contains("log in there as ann"), "{err}");
    // Nor are they left behind.
    assert_eq!(mock.totals().requests.get("revoke"), Some(&1));
    // Who does not answer now cannot contradict.
    let code = twitch.device_code(&BTreeSet::new()).await.unwrap();
    assert!(mock.approve_device(&code.user_code, "bob"));
    let away = Step { on: Endpoint::Validate, ..Step::new(Reply::Unavailable) };
    mock.script(&Scope::All, vec![away]).unwrap();
    assert!(twitch.wait(&code, "ann").await.is_ok());
}

/// A browser: opens the page, which says yes at once, and gives where it is sent to.
async fn browse(url: &str, account: &str) -> Url {
    let mut url = Url::parse(url).unwrap();
    url.query_pairs_mut().append_pair("login_hint", account);
    let answer = visit(&url).await;
    let back = answer.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
    Url::parse(back).unwrap()
}

/// Sends a GET and gives the answer.
async fn visit(url: &Url) -> String {
    let address = (url.host_str().unwrap(), url.port().unwrap());
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let target = url.as_str().split_once(&format!(":{}", address.1)).unwrap().1;
    let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn vlt_5_a_browser_brings_a_code_that_its_verifier_redeems() {
    let mock = mock().await;
    for name in ALL {
        let (authorizer, _) = authorizer(&mock, name, confidential());
        let flow = authorizer.browser(&set(&["a"])).await.unwrap();
        let page = Url::parse(&flow.authorize_url).unwrap();
        let query: std::collections::BTreeMap<_, _> = page.query_pairs().into_owned().collect();
        assert_eq!(query["code_challenge_method"], "S256", "{name}");
        assert!(query["state"].len() >= 43 && query["code_challenge"].len() == 43, "{name}");
        for (key, value) in &Profile::builtin(name).map(|p| p.authorize_params).unwrap_or_default()
        {
            assert_eq!(query[key], *value, "{name}");
        }
        let back = browse(&flow.authorize_url, "ann").await;
        let account = if name == "google" { "ann@example.org" } else { "ann" };
        let account = if name == "spotify" { "ann" } else { account };
        let (got, page) = tokio::join!(authorizer.wait_for_browser(flow, account), visit(&back));
        let got = got.unwrap_or_else(|err| panic!("{name}: {}", err.chain()));
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("Done."), "{page}");
        assert_eq!(
            (got.flow, got.tokens.scopes),
            (GrantFlow::AuthorizationCode, Some(set(&["a"])))
        );
    }
    assert_eq!(mock.totals().secrets_in_urls, 0);
}

#[tokio::test]
async fn vlt_5_only_the_right_visit_counts() {
    let mock = mock().await;
    let (twitch, _) = authorizer(&mock, "twitch", public());
    let flow = twitch.browser(&BTreeSet::new()).await.unwrap();
    let back = browse(&flow.authorize_url, "ann").await;
    let other = |change: &dyn Fn(&mut Url)| {
        let mut url = back.clone();
        change(&mut url);
        url
    };
    let strangers = [
        (other(&|url| url.set_path("/callback/x")), "404"),
        (other(&|url| url.set_path("/")), "404"),
        (other(&|url| url.set_query(Some("code=evil&state=guess"))), "400"),
        (other(&|url| url.set_query(Some("code=evil"))), "400"),
        (other(&|url| url.set_query(Some("error=access_denied"))), "400"),
        (other(&|url| url.set_query(None)), "400"),
    ];
    let address = back.socket_addrs(|| None).unwrap()[0];
    let visits = async {
        // A browser's connection on stock, and one that talks nonsense.
        let idle = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut odd = tokio::net::TcpStream::connect(address).await.unwrap();
        odd.write_all(b"\x16\x03\x01\r\n\r\n").await.unwrap();
        for (url, status) in &strangers {
            let page = visit(url).await;
            assert!(page.starts_with(&format!("HTTP/1.1 {status}")), "{url}: {page}");
        }
        let page = visit(&back).await;
        drop((idle, odd));
        page
    };
    let begun = Instant::now();
    let (got, page) = tokio::join!(twitch.wait_for_browser(flow, "ann"), visits);
    assert!(got.is_ok() && page.contains("Done."), "{got:?} {page}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    // It is over: nobody listens any more.
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn vlt_5_a_refusal_in_the_browser_ends_it() {
    let mock = mock().await;
    let (twitch, _) = authorizer(&mock, "twitch", public());
    let flow = twitch.browser(&BTreeSet::new()).await.unwrap();
    let mut back = Url::parse(&flow.redirect_url).unwrap();
    let page = Url::parse(&flow.authorize_url).unwrap();
    let state = page.query_pairs().find(|(key, _)| key == "state").unwrap().1;
    let query = format!("error=access_denied&state={state}");
    back.set_query(Some(&query));
    let (got, page) = tokio::join!(twitch.wait_for_browser(flow, "ann"), visit(&back));
    let err = got.unwrap_err();
    assert!(
        matches!(err, Error::Denied { .. }) && err.chain().contains("access_denied"),
        "{err:?}"
    );
    assert!(page.contains("It was not authorized."), "{page}");
}

#[tokio::test]
async fn vlt_5_an_address_can_be_brought_by_hand() {
    let mock = mock().await;
    let (twitch, _) = authorizer(&mock, "twitch", public());
    let flow = twitch.browser(&BTreeSet::new()).await.unwrap();
    let back = browse(&flow.authorize_url, "ann").await;
    let pasted = format!("  {back}\n").into();
    assert!(twitch.redeem_address(flow, &pasted, "ann").await.is_ok());
    // What belonged to that flow does not belong to the next.
    let flow = twitch.browser(&BTreeSet::new()).await.unwrap();
    let err = twitch.redeem_address(flow, &pasted, "ann").await.unwrap_err();
    assert!(matches!(err, Error::Denied { .. }), "{err:?}");
}

#[tokio::test]
async fn vlt_5_a_registered_address_is_used_as_it_is() {
    let mock = mock().await;
    // A port that is free now; nobody else is told of it.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    let mut profile = profile(&mock, "twitch");
    let registered = format!("http://localhost:{port}/back");
    profile.redirect_url = Some(registered.clone());
    let twitch = Provider::new("twitch", profile, public()).unwrap();
    let time = MockTime::new(&mock);
    let twitch = Authorizer::new(Arc::new(twitch), Http::new().unwrap(), time);
    let err = twitch.browser(&BTreeSet::new()).await.unwrap_err();
    assert!(err.chain().contains(&port.to_string()), "{}", err.chain());
    drop(free);
    let flow = twitch.browser(&BTreeSet::new()).await.unwrap();
    assert_eq!(flow.redirect_url, registered);
}

#[tokio::test]
async fn vlt_13_a_refresh_token_that_ends_is_told_at_the_authorization() {
    let mock = mock().await;
    let (spotify, _) = authorizer(&mock, "spotify", confidential());
    let flow = spotify.browser(&BTreeSet::new()).await.unwrap();
    let back = browse(&flow.authorize_url, "ann").await;
    let got = spotify.redeem_address(flow, &back.as_str().into(), "ann").await.unwrap();
    let end = got.tokens.refresh_expires_at.unwrap();
    let days = end.since(clock::now()).as_secs() / 86_400;
    assert!((179..=180).contains(&days), "{days}");
    let knobs = Knobs { misconfigured: Some(true), ..Knobs::default() };
    mock.set(&Scope::All, knobs).unwrap();
    assert!(spotify.client_credentials("app", &BTreeSet::new()).await.is_err());
}
