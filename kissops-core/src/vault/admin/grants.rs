//! Grants: what there is, in which state, and what can be done about it.

use std::collections::BTreeSet;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{Caller, VaultAdmin, expose, target};
use crate::{
    Error, Result, Timestamp,
    id::InstanceName,
    store::{GrantFlow, GrantId, GrantKey, GrantQuery, GrantRecord, GrantState, GrantStateName},
};

/// A grant as it is shown: never its tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct Grant {
    /// The provider's profile.
    pub provider: String,
    /// Whose grant.
    pub account: String,
    /// `pending`, `active`, `degraded`, `ambiguous`, `suspect`, `fenced`, `needs_reauth`, `revoked`.
    pub state: String,
    /// Since when it is in this state.
    #[cfg_attr(feature = "control", schema(value_type = String))]
    pub since: Timestamp,
    /// Why, where the state does not say it.
    pub reason: Option<String>,
    /// How it was obtained: `authorization_code`, `device_code`, `client_credentials`, `imported`.
    pub flow: String,
    /// What the account has allowed.
    pub scopes: BTreeSet<String>,
    /// When the access token expires, as far as is known.
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub expires_at: Option<Timestamp>,
    /// When the refresh token ends, whatever is done with it.
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub refresh_expires_at: Option<Timestamp>,
    /// When its latest tokens came.
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub last_refresh_at: Option<Timestamp>,
    /// When it is refreshed next; `null`: not at all.
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub next_refresh_at: Option<Timestamp>,
    /// Failures since the last success.
    pub failures: u32,
    /// The instances that it is handed to.
    #[cfg_attr(feature = "control", schema(value_type = Vec<String>))]
    pub instances: BTreeSet<InstanceName>,
    /// Counts its pairs of tokens.
    pub generation: u64,
    /// What an operator is to do; `null`: nothing.
    pub help: Option<String>,
}

impl From<GrantRecord> for Grant {
    fn from(record: GrantRecord) -> Self {
        let GrantRecord { grant, generation, status, expiry, refreshed_at, .. } = record;
        Self {
            help: help(&grant.key, grant.flow, status.state.name()),
            provider: grant.key.provider,
            account: grant.key.account,
            state: status.state.name().as_str().to_owned(),
            since: status.state.since(),
            reason: reason(&status.state).map(str::to_owned),
            flow: flow(grant.flow).to_owned(),
            scopes: grant.scopes,
            expires_at: expiry.access,
            refresh_expires_at: expiry.refresh,
            last_refresh_at: refreshed_at,
            next_refresh_at: status.next_refresh_at,
            failures: status.failure.map_or(0, |failure| failure.count),
            instances: grant.instances,
            generation: generation.0,
        }
    }
}

fn reason(state: &GrantState) -> Option<&str> {
    match state {
        GrantState::Suspect { reason, .. }
        | GrantState::Fenced { reason, .. }
        | GrantState::NeedsReauth { reason, .. }
        | GrantState::Revoked { reason, .. } => Some(reason),
        _ => None,
    }
}

fn flow(flow: GrantFlow) -> &'static str {
    match flow {
        GrantFlow::AuthorizationCode => "authorization_code",
        GrantFlow::DeviceCode => "device_code",
        GrantFlow::ClientCredentials => "client_credentials",
        GrantFlow::Imported => "imported",
    }
}

/// The command that gets a grant out of a state in which it does not help itself.
fn help(key: &GrantKey, flow: GrantFlow, state: GrantStateName) -> Option<String> {
    let GrantKey { provider, account } = key;
    match state {
        GrantStateName::Pending | GrantStateName::NeedsReauth | GrantStateName::Revoked => {
            let option = match flow {
                GrantFlow::ClientCredentials => " --client-credentials",
                _ => "",
            };
            Some(format!("kissops token authorize {provider} {account}{option}"))
        }
        GrantStateName::Fenced => Some(format!("kissops vault adopt {provider} {account}")),
        GrantStateName::Active
        | GrantStateName::Degraded
        | GrantStateName::Ambiguous
        | GrantStateName::Suspect => None,
    }
}

/// Which grants to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrantFilter {
    /// Only of this provider.
    pub provider: Option<String>,
    /// Only in this state.
    pub state: Option<String>,
    /// Only those that are handed to this instance.
    pub instance: Option<String>,
    /// Only after this place: `next` of the page before.
    pub after: Option<String>,
    /// At most so many; 500 where it is left out, and at most.
    pub limit: Option<u32>,
}

/// A page of grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct Grants {
    /// In the order in which they were made.
    pub grants: Vec<Grant>,
    /// `after` of the next page; `null` at the end.
    pub next: Option<String>,
}

/// The largest page.
const PAGE: u32 = 500;

impl GrantFilter {
    fn query(self) -> Result<GrantQuery> {
        let unknown = |key: &str, text: &str, rule: &str| {
            Error::invalid(format!("{key} `{}`", text.escape_debug()), rule)
        };
        let state = self.state.map(|word| {
            GrantStateName::parse(&word).ok_or_else(|| {
                unknown("state", &word, "is no state of a grant, such as active or needs_reauth")
            })
        });
        let after = self.after.map(|text| {
            let id = text.parse().map(GrantId);
            id.map_err(|_| unknown("after", &text, "is not `next` of a page"))
        });
        Ok(GrantQuery {
            provider: self.provider,
            state: state.transpose()?,
            instance: self.instance.as_deref().map(InstanceName::new).transpose()?,
            after: after.transpose()?,
            limit: self.limit.unwrap_or(PAGE).clamp(1, PAGE),
        })
    }
}

/// The instances that a grant is to be handed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BindRequest {
    /// In the place of those before.
    #[cfg_attr(feature = "control", schema(value_type = Vec<String>))]
    pub instances: BTreeSet<InstanceName>,
}

/// Why a grant is given up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RevokeRequest {
    /// For the record.
    pub reason: String,
}

/// What became of a revocation. Our copy of the tokens is gone in any case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct RevokeResult {
    /// The provider's profile.
    pub provider: String,
    /// Whose grant.
    pub account: String,
    /// The provider has confirmed it.
    pub ok: bool,
    /// Why not: then it is to be done there by hand.
    pub error: Option<String>,
}

/// An access token in clear text. `Debug` shows nothing of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct RevealedToken {
    /// The provider's profile.
    pub provider: String,
    /// Whose grant.
    pub account: String,
    /// The token.
    #[serde(serialize_with = "expose::one")]
    #[cfg_attr(feature = "control", schema(value_type = String))]
    pub access_token: SecretString,
    /// When it expires.
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub expires_at: Option<Timestamp>,
    /// To which of the grant's pairs it belongs.
    pub generation: u64,
}

impl VaultAdmin {
    /// Lists grants; works while the vault is sealed, too.
    ///
    /// # Errors
    /// [`InvalidConfig`](Error::InvalidConfig) for a filter that means nothing.
    pub async fn grants(&self, filter: GrantFilter) -> Result<Grants> {
        let query = filter.query()?;
        let wanted = query.limit;
        let records = self.store().grants(query).await?;
        let full = u32::try_from(records.len()).is_ok_and(|read| read >= wanted);
        let last = records.last().filter(|_| full).map(|record| record.grant.id.0.to_string());
        Ok(Grants { grants: records.into_iter().map(Grant::from).collect(), next: last })
    }

    /// One grant; works while the vault is sealed, too.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub async fn grant(&self, key: &GrantKey) -> Result<Grant> {
        let record = self.store().grant(key).await?;
        record.map(Grant::from).ok_or_else(|| Error::NotFound { what: target(key) })
    }

    /// Refreshes now, or shares what is under way.
    ///
    /// # Errors
    /// Those of [`TokenVault::refresh`](crate::vault::TokenVault::refresh).
    pub async fn refresh(&self, caller: &Caller, key: GrantKey) -> Result<Grant> {
        let (admin, wanted) = (self.clone(), key.clone());
        self.change(caller, "token.refresh", target(&key), async move {
            admin.vault().refresh(&wanted).await.map(drop)
        })
        .await?;
        self.grant(&key).await
    }

    /// Sets which instances a grant is handed to.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub async fn bind(&self, caller: &Caller, key: GrantKey, to: BindRequest) -> Result<Grant> {
        let (admin, wanted) = (self.clone(), key.clone());
        self.change(caller, "token.bind", target(&key), async move {
            admin.vault().bind(&wanted, to.instances).await
        })
        .await?;
        self.grant(&key).await
    }

    /// Revokes a grant at its provider and removes its tokens here, whatever the provider said.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub async fn revoke(
        &self,
        caller: &Caller,
        key: GrantKey,
        request: RevokeRequest,
    ) -> Result<RevokeResult> {
        let reason = if request.reason.is_empty() {
            "revoked by an operator".to_owned()
        } else {
            request.reason
        };
        let admin = self.clone();
        let done = self.change(caller, "token.revoke", target(&key), async move {
            admin.vault().revoke(&key, &reason).await
        });
        let done = done.await?;
        Ok(RevokeResult {
            provider: done.key.provider,
            account: done.key.account,
            ok: done.at_provider.is_ok(),
            error: done.at_provider.err(),
        })
    }

    /// Removes a grant without asking the provider.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub async fn remove(&self, caller: &Caller, key: GrantKey) -> Result<()> {
        let admin = self.clone();
        self.change(caller, "token.remove", target(&key), async move {
            admin.vault().remove(&key).await
        })
        .await
    }

    /// The access token in clear text, once it is recorded who sees it.
    ///
    /// # Errors
    /// Those of [`TokenVault::token`](crate::vault::TokenVault::token), and of the audit.
    pub async fn reveal_token(&self, caller: &Caller, key: &GrantKey) -> Result<RevealedToken> {
        let token = self.vault().token(key).await;
        let token = self.ledger().reveal(caller, "token.reveal", &target(key), token).await?;
        Ok(RevealedToken {
            provider: token.key.provider,
            account: token.key.account,
            access_token: token.token,
            expires_at: token.expires_at,
            generation: token.generation.0,
        })
    }
}
