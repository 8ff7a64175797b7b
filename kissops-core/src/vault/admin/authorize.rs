//! Authorizations under way: begun here, finished by an account's owner in a browser, and kept when they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Caller, VaultAdmin, check_names, target};
use crate::{
    Error, Result, Timestamp, clock,
    id::InstanceName,
    store::{Actor, AuditOutcome, GrantFlow, GrantKey},
    vault::{Authorizer, NewTokens, SystemTime, VaultEvent, VaultEventKind},
};

/// How an account is to be authorized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AuthorizeFlow {
    /// Its owner types a code at the provider's page, on any device.
    #[default]
    DeviceCode,
    /// In a browser on this machine, which comes back to a port of it.
    Browser,
    /// By the client's own secret: there is no owner.
    ClientCredentials,
}

/// An authorization to be begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizeRequest {
    /// How.
    pub flow: AuthorizeFlow,
    /// What to ask for; what the grant had or the provider's profile says where it is left out.
    pub scopes: Option<BTreeSet<String>>,
    /// The instances that it is to be handed to; as they are where it is left out.
    #[cfg_attr(feature = "control", schema(value_type = Option<Vec<String>>))]
    pub instances: Option<BTreeSet<InstanceName>>,
}

/// How far an authorization has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AuthorizationState {
    /// It waits for the account's owner.
    Pending,
    /// The tokens are kept.
    Done,
    /// It came to nothing.
    Failed,
}

/// An authorization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct Authorization {
    /// What it is asked for by.
    pub id: String,
    /// The provider's profile.
    pub provider: String,
    /// Whose grant.
    pub account: String,
    /// How far it has come.
    pub state: AuthorizationState,
    /// Why it came to nothing.
    pub error: Option<String>,
    /// Where the account's owner goes.
    pub url: Option<String>,
    /// What is to be typed there, unless the URL holds it.
    pub code: Option<String>,
    /// Until when.
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub expires_at: Option<Timestamp>,
}

impl Authorization {
    fn of(key: &GrantKey) -> Result<Self> {
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(|err| Error::Unavailable {
            what: "the system's random generator".into(),
            source: err.to_string().into(),
        })?;
        Ok(Self {
            id: format!("{:016x}", u64::from_le_bytes(id)),
            provider: key.provider.clone(),
            account: key.account.clone(),
            state: AuthorizationState::Pending,
            error: None,
            url: None,
            code: None,
            expires_at: None,
        })
    }
}

/// Those under way, and those that ended lately.
#[derive(Debug, Default)]
pub(super) struct Authorizations(Mutex<BTreeMap<String, Entry>>);

#[derive(Debug)]
struct Entry {
    shown: Authorization,
    request: AuthorizeRequest,
    waiting: Waiting,
}

/// An authorization that waits for its owner.
#[derive(Clone, Debug, Default)]
struct Waiting {
    /// It is given up.
    cancel: CancellationToken,
    /// It is over, with or without tokens.
    over: CancellationToken,
}

impl Entry {
    fn waits_for(&self, key: &GrantKey, now: Timestamp) -> bool {
        let one = &self.shown;
        one.state == AuthorizationState::Pending
            && !self.waiting.cancel.is_cancelled()
            && one.provider == key.provider
            && one.account == key.account
            && one.expires_at.is_none_or(|until| until > now)
    }
}

/// So many links are made for events at once: whoever has more grants to mend takes the command.
const LINKS: usize = 20;
/// The longest that an event waits for its link.
const LINK_LIMIT: Duration = Duration::from_secs(10);
/// So many are remembered; the oldest that has ended makes room.
const REMEMBERED: usize = 1_000;

impl Authorizations {
    fn with<T>(&self, read: impl FnOnce(&mut BTreeMap<String, Entry>) -> T) -> T {
        read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The one that still waits for the owner of `key`, whatever it asks for.
    fn waiting(&self, key: &GrantKey) -> Option<Authorization> {
        let now = clock::now();
        self.with(|all| all.values().find(|e| e.waits_for(key, now)).map(|e| e.shown.clone()))
    }

    /// The one that waits for the same. Those that wait for something else of the same owner are given up, and over when
    /// this returns: two would hold one port, and the later answer would undo the earlier.
    async fn same(&self, key: &GrantKey, request: &AuthorizeRequest) -> Option<Authorization> {
        let now = clock::now();
        let (same, others) = self.with(|all| {
            let waiting = all.values().filter(|entry| entry.waits_for(key, now));
            let (same, others): (Vec<_>, Vec<_>) = waiting.partition(|e| e.request == *request);
            let others: Vec<_> = others.into_iter().map(|entry| entry.waiting.clone()).collect();
            (same.first().map(|entry| entry.shown.clone()), others)
        });
        for other in others {
            other.cancel.cancel();
            other.over.cancelled().await;
        }
        same
    }

    fn count_waiting(&self) -> usize {
        let waits = |entry: &&Entry| entry.shown.state == AuthorizationState::Pending;
        self.with(|all| all.values().filter(waits).count())
    }

    /// Adds one that begins to wait. One for the same that somebody else has begun meanwhile is given back instead, and
    /// those for something else of the same owner are given up.
    fn add(&self, shown: Authorization, request: AuthorizeRequest) -> Result<Added> {
        let key = GrantKey { provider: shown.provider.clone(), account: shown.account.clone() };
        let now = clock::now();
        self.with(|all| {
            for entry in all.values().filter(|entry| entry.waits_for(&key, now)) {
                if entry.request == request {
                    return Ok(Added::Known(entry.shown.clone()));
                }
                entry.waiting.cancel.cancel();
            }
            if all.len() >= REMEMBERED {
                let ended = |entry: &Entry| entry.shown.state != AuthorizationState::Pending;
                let Some(id) = all.iter().find(|(_, e)| ended(e)).map(|(id, _)| id.clone()) else {
                    let holder = format!("{REMEMBERED} others that wait for their owners");
                    return Err(Error::Conflict { what: "the authorization".into(), holder });
                };
                all.remove(&id);
            }
            let waiting = Waiting::default();
            let entry = Entry { shown: shown.clone(), request, waiting: waiting.clone() };
            all.insert(shown.id.clone(), entry);
            Ok(Added::New(waiting))
        })
    }

    fn end(&self, id: &str, error: Option<String>) {
        self.with(|all| {
            if let Some(entry) = all.get_mut(id) {
                let done = AuthorizationState::Done;
                entry.shown.state = error.as_ref().map_or(done, |_| AuthorizationState::Failed);
                entry.shown.error = error;
            }
        });
    }

    pub(super) fn cancel_all(&self) {
        self.with(|all| all.values().for_each(|entry| entry.waiting.cancel.cancel()));
    }
}

/// What became of an authorization that was to be added.
enum Added {
    New(Waiting),
    Known(Authorization),
}

impl VaultAdmin {
    /// Begins an authorization, or gives the one that waits for the same already; one that waits for the same account's
    /// owner and asks for something else is given up. It goes on by itself: [`authorization`](Self::authorization) says
    /// how far it is. By client credentials it is done at once.
    ///
    /// # Errors
    /// - [`NotFound`](Error::NotFound) if the provider is not configured.
    /// - [`WrongState`](Error::WrongState) if it has no such flow, or the vault is sealed.
    /// - [`Denied`](Error::Denied), [`Unavailable`](Error::Unavailable): what the provider says.
    pub async fn authorize(
        &self,
        caller: &Caller,
        key: GrantKey,
        request: AuthorizeRequest,
    ) -> Result<Authorization> {
        check_names(&key)?;
        // What could not be kept is not begun.
        self.keyring()?;
        if request.flow != AuthorizeFlow::ClientCredentials
            && let Some(waiting) = self.inner.authorizations.same(&key, &request).await
        {
            return Ok(waiting);
        }
        let provider = self.inner.providers.get(&key.provider)?;
        let authorizer = Authorizer::new(provider, self.inner.http.clone(), Arc::new(SystemTime));
        let (begin, outcome) = ("token.authorize.begin", AuditOutcome::Done);
        self.ledger().record(caller, begin, &target(&key), outcome).await?;
        let scopes = self.scopes(&key, request.scopes.clone()).await?;
        let shown = Authorization::of(&key)?;
        let account = key.account.clone();
        match request.flow {
            AuthorizeFlow::DeviceCode => {
                let code = authorizer.device_code(&scopes).await?;
                let shown = Authorization {
                    url: Some(
                        code.verification_uri_complete
                            .as_ref()
                            .unwrap_or(&code.verification_uri)
                            .clone(),
                    ),
                    code: Some(code.user_code.clone()),
                    expires_at: Some(code.expires_at),
                    ..shown
                };
                self.follow(caller, shown, request, async move {
                    authorizer.wait(&code, &account).await
                })
            }
            AuthorizeFlow::Browser => {
                let flow = authorizer.browser(&scopes).await?;
                let shown = Authorization { url: Some(flow.authorize_url.clone()), ..shown };
                self.follow(caller, shown, request, async move {
                    authorizer.wait_for_browser(flow, &account).await
                })
            }
            AuthorizeFlow::ClientCredentials => {
                let (admin, instances) = (self.clone(), request.instances);
                let done = Authorization { state: AuthorizationState::Done, ..shown };
                self.change(caller, "token.authorize", target(&key), async move {
                    let tokens = authorizer.client_credentials(&account, &scopes).await?;
                    admin.vault().put(NewTokens { instances, ..tokens }).await?;
                    Ok(done)
                })
                .await
            }
        }
    }

    /// What to ask for: what is wanted, or what the grant had; empty leaves it to the profile.
    async fn scopes(
        &self,
        key: &GrantKey,
        wanted: Option<BTreeSet<String>>,
    ) -> Result<BTreeSet<String>> {
        if let Some(wanted) = wanted {
            return Ok(wanted);
        }
        let known = self.store().grant(key).await?;
        Ok(known.map(|record| record.grant.scopes).unwrap_or_default())
    }

    /// The same event with a link and a code in its message, where an account's owner has to authorize again and the
    /// provider has device codes.
    pub async fn with_link(&self, event: VaultEvent) -> VaultEvent {
        let asks = matches!(event.kind, VaultEventKind::NeedsReauth | VaultEventKind::ReauthSoon);
        let Some(account) = event.account.clone().filter(|_| asks) else { return event };
        let key = GrantKey { provider: event.provider.clone(), account };
        let link = timeout(LINK_LIMIT, self.link(&key)).await;
        let GrantKey { provider, account } = &key;
        let how = match link {
            Ok(Ok(Authorization { url: Some(url), code, expires_at, .. })) => {
                let code = code.map_or_else(String::new, |code| format!(" and enter {code}"));
                let until = expires_at.map_or_else(String::new, |at| format!(" until {at}"));
                format!("as {account}, open {url}{code}{until}; later: ")
            }
            _ => String::new(),
        };
        let message =
            format!("{}; {how}kissops token authorize {provider} {account}", event.message);
        VaultEvent { message, ..event }
    }

    async fn link(&self, key: &GrantKey) -> Result<Authorization> {
        if self.inner.authorizations.count_waiting() >= LINKS {
            let holder = "others that wait for their owners".into();
            return Err(Error::Conflict { what: "the authorization".into(), holder });
        }
        let record = self.store().grant(key).await?;
        if record.is_some_and(|record| record.grant.flow == GrantFlow::ClientCredentials) {
            return Err(Error::NotFound { what: format!("owner of {key}") });
        }
        let caller = Caller { actor: Actor::System("vault".into()), origin: "an event".into() };
        self.authorize(&caller, key.clone(), AuthorizeRequest::default()).await
    }

    /// An authorization as it is now.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound), also for one that ended long ago or with an earlier daemon.
    pub fn authorization(&self, id: &str) -> Result<Authorization> {
        let found = self.inner.authorizations.with(|all| Some(all.get(id)?.shown.clone()));
        found.ok_or_else(|| Error::NotFound {
            what: format!("authorization `{}`", id.escape_debug()),
        })
    }

    /// Gives an authorization up. Nothing happens to one that has ended, or whose tokens are just being kept.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub fn cancel_authorization(&self, id: &str) -> Result<()> {
        self.authorization(id)?;
        self.inner.authorizations.with(|all| all.get(id).map(|e| e.waiting.cancel.cancel()));
        Ok(())
    }

    /// Follows an authorization until its tokens are kept, whoever looks meanwhile.
    fn follow(
        &self,
        caller: &Caller,
        shown: Authorization,
        request: AuthorizeRequest,
        tokens: impl Future<Output = Result<NewTokens>> + Send + 'static,
    ) -> Result<Authorization> {
        let instances = request.instances.clone();
        let waiting = match self.inner.authorizations.add(shown.clone(), request)? {
            Added::New(waiting) => waiting,
            Added::Known(shown) => return Ok(shown),
        };
        let (admin, caller, id) = (self.clone(), caller.clone(), shown.id.clone());
        let key = GrantKey { provider: shown.provider.clone(), account: shown.account.clone() };
        self.inner.tasks.spawn(async move {
            let _over = waiting.over.drop_guard();
            let given = tokio::select! {
                biased;
                tokens = tokens => tokens.map_err(|err| err.chain()),
                () = waiting.cancel.cancelled() => Err("it was given up".to_owned()),
            };
            // What the provider has given is kept, also when it is given up now: nothing else has it.
            let error = match given {
                Ok(tokens) => {
                    let kept = admin.vault().put(NewTokens { instances, ..tokens }).await;
                    kept.err().map(|err| err.chain())
                }
                Err(why) => Some(why),
            };
            let outcome = error.clone().map_or(AuditOutcome::Done, AuditOutcome::Failed);
            admin.ledger().record_late(&caller, "token.authorize", &target(&key), outcome).await;
            admin.inner.authorizations.end(&id, error);
        });
        Ok(shown)
    }
}
