//! What tests do to the provider behind its clients' backs.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    flavour::Flavour,
    knobs::{Knobs, Scope, Step},
    parse::is_plain,
    state::{Account, Client, Death, State},
};

/// A call that cannot be carried out, and why.
#[derive(Debug)]
pub struct ControlError(pub(crate) String);

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ControlError {}

/// Accounts to be made, each with a grant and its tokens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewAccounts {
    /// By name. One that is there gets another grant.
    pub names: Vec<String>,
    /// And so many more, named `prefix` and a number from 0.
    pub count: u32,
    /// Of their names.
    pub prefix: String,
    /// The client that they have authorized; the first one, if it is not said.
    pub client: Option<String>,
    /// What they allow.
    pub scopes: Vec<String>,
    /// The life of the first access tokens; later ones live as the knobs say.
    pub lifetime_ms: Option<u64>,
    /// Spreads the ends of those lives evenly over this time.
    pub spread_ms: u64,
}

impl Default for NewAccounts {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            count: 0,
            prefix: "account".to_owned(),
            client: None,
            scopes: vec!["chat:read".to_owned(), "chat:edit".to_owned()],
            lifetime_ms: None,
            spread_ms: 0,
        }
    }
}

impl NewAccounts {
    /// One account.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { names: vec![name.to_owned()], ..Self::default() }
    }

    /// Many.
    #[must_use]
    pub fn many(count: u32) -> Self {
        Self { count, ..Self::default() }
    }

    /// Of this client.
    #[must_use]
    pub fn of(self, client: &str) -> Self {
        Self { client: Some(client.to_owned()), ..self }
    }
}

/// A row of the file that `kissops token import` takes.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct ImportRow {
    /// What the provider is called there.
    pub provider: String,
    /// The account.
    pub account: String,
    /// Its access token.
    pub access_token: String,
    /// Its refresh token.
    pub refresh_token: String,
    /// RFC 3339.
    pub expires_at: String,
    /// What it allows.
    pub scopes: Vec<String>,
}

impl fmt::Debug for ImportRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportRow")
            .field("provider", &self.provider)
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

impl State {
    pub(crate) fn register(&mut self, client: Client) -> Result<(), ControlError> {
        plain("a client's id", &client.id)?;
        self.add_client(client);
        Ok(())
    }

    pub(crate) fn add_accounts(
        &mut self,
        new: &NewAccounts,
    ) -> Result<Vec<ImportRow>, ControlError> {
        let client = match &new.client {
            Some(id) => self.client(id).ok_or_else(|| nobody(&Scope::Client(id.clone())))?,
            None if self.clients.is_empty() => {
                return Err(ControlError("there is no client".into()));
            }
            None => 0,
        };
        let numbered = (0..new.count).map(|at| format!("{}{at}", new.prefix));
        let names: Vec<String> = new.names.iter().cloned().chain(numbered).collect();
        for name in &names {
            plain("an account's name", name)?;
        }
        for scope in &new.scopes {
            plain("a scope", scope)?;
        }
        let scopes: Arc<[String]> = new.scopes.iter().cloned().collect();
        let total = names.len().max(1) as u64;
        let rows = names.into_iter().zip(0_u64..);
        Ok(rows
            .map(|(name, at)| {
                let spread = new.spread_ms.saturating_mul(at) / total;
                self.add_account(client, &name, &scopes, new.lifetime_ms, spread)
            })
            .collect())
    }

    fn add_account(
        &mut self,
        client: u32,
        name: &str,
        scopes: &Arc<[String]>,
        lifetime_ms: Option<u64>,
        spread_ms: u64,
    ) -> ImportRow {
        let account = self.account(name);
        let grant = self.authorize(client, Some(account), Arc::clone(scopes));
        let usual = self.lifetime_ms(self.owner(grant), Flavour::Twitch);
        let lifetime = lifetime_ms.unwrap_or(usual).saturating_add(spread_ms);
        let (refresh, access) = (self.mint_refresh(grant), self.mint_access(grant, lifetime));
        self.row(name, refresh, access)
    }

    /// Every grant of an account that is alive, with its current tokens.
    pub(crate) fn import(&self) -> Vec<ImportRow> {
        let of = |account: &Account| -> Vec<ImportRow> {
            let tokens = account.grants.iter().filter_map(|grant| {
                let grant = &self.grants[*grant as usize];
                let refresh = grant.refresh.filter(|at| self.is_live(*at))?;
                Some((refresh, *grant.access.back()?))
            });
            tokens.map(|(refresh, access)| self.row(&account.name, refresh, access)).collect()
        };
        self.accounts.iter().flat_map(of).collect()
    }

    fn row(&self, account: &str, refresh: u32, access: u32) -> ImportRow {
        let token = &self.tokens[access as usize];
        let grant = &self.grants[token.grant as usize];
        let expires_at = jiff::Timestamp::from_microsecond(token.expires_at);
        ImportRow {
            provider: self.clients[grant.client as usize].provider.clone(),
            account: account.to_owned(),
            access_token: self.text(access),
            refresh_token: self.text(refresh),
            expires_at: expires_at.unwrap_or(jiff::Timestamp::MAX).to_string(),
            scopes: grant.scopes.to_vec(),
        }
    }

    pub(crate) fn set_knobs(&mut self, scope: &Scope, knobs: Knobs) -> Result<(), ControlError> {
        let tuning = self.tuning(scope).ok_or_else(|| nobody(scope))?;
        tuning.knobs = knobs;
        Ok(())
    }

    pub(crate) fn add_script(
        &mut self,
        scope: &Scope,
        steps: Vec<Step>,
    ) -> Result<(), ControlError> {
        self.tuning(scope).ok_or_else(|| nobody(scope))?.script.extend(steps);
        Ok(())
    }

    /// The account withdraws what it has allowed; gives the number of grants.
    pub(crate) fn withdraw(&mut self, name: &str) -> Result<u32, ControlError> {
        let account =
            *self.names.get(name).ok_or_else(|| nobody(&Scope::Account(name.to_owned())))?;
        Ok(self.disconnect(account, None, Death::Disconnected))
    }

    /// Ends the lives of the account's access tokens now; gives their number.
    pub(crate) fn expire(&mut self, name: &str) -> Result<u32, ControlError> {
        let account =
            *self.names.get(name).ok_or_else(|| nobody(&Scope::Account(name.to_owned())))?;
        let (now, mut ended) = (self.clock.now(), 0);
        for grant in &self.accounts[account as usize].grants {
            for token in &self.grants[*grant as usize].access {
                let token = &mut self.tokens[*token as usize];
                ended += u32::from(token.expires_at > now);
                token.expires_at = token.expires_at.min(now);
            }
        }
        Ok(ended)
    }
}

fn plain(what: &str, text: &str) -> Result<(), ControlError> {
    if is_plain(text) {
        return Ok(());
    }
    Err(ControlError(format!(
        "{what} must be printable ASCII without spaces, quotes and backslashes"
    )))
}

pub(crate) fn nobody(scope: &Scope) -> ControlError {
    ControlError(match scope {
        Scope::All => "there is nobody".to_owned(),
        Scope::Client(id) => format!("there is no client `{id}`"),
        Scope::Account(name) => format!("there is no account `{name}`"),
    })
}
