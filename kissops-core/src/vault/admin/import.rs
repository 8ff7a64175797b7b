//! Tokens that are taken over from elsewhere.

use std::{collections::BTreeSet, sync::Arc};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::{Caller, VaultAdmin, check_names, expose, target};
use crate::{
    Error, Result, Timestamp,
    id::InstanceName,
    store::{GrantFlow, GrantKey},
    vault::{
        NewTokens, TokenSet,
        import::{Imported, Importer, Skipped},
    },
};

/// Grants to be taken over.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenImport {
    /// The grants.
    pub tokens: Vec<NewToken>,
    /// Also in the place of grants that are there already.
    #[serde(default)]
    pub replace: bool,
}

/// One of them. `Debug` shows no token.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// The provider's profile.
    pub provider: String,
    /// Whose grant.
    pub account: String,
    /// The access token.
    #[serde(serialize_with = "expose::one")]
    #[cfg_attr(feature = "control", schema(value_type = String))]
    pub access_token: SecretString,
    /// The refresh token, if there is one.
    #[serde(default, serialize_with = "expose::some")]
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub refresh_token: Option<SecretString>,
    /// When the access token expires.
    #[serde(default)]
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub expires_at: Option<Timestamp>,
    /// When the refresh token ends, whatever is done with it.
    #[serde(default)]
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub refresh_expires_at: Option<Timestamp>,
    /// What the account has allowed.
    #[serde(default)]
    pub scopes: Option<BTreeSet<String>>,
    /// The instances that it is handed to.
    #[serde(default)]
    #[cfg_attr(feature = "control", schema(value_type = Option<Vec<String>>))]
    pub instances: Option<BTreeSet<InstanceName>>,
}

/// So few are kept one by one, and told of at once: bots may wait for them.
const FEW: usize = 20;

impl VaultAdmin {
    /// Takes tokens over. One that cannot be is skipped, with the reason; the others are kept.
    ///
    /// Many are kept in a block, and noticed by the refresher and by bots that wait for them within half a minute.
    ///
    /// # Errors
    /// [`WrongState`](Error::WrongState) while the vault is sealed.
    pub async fn import(&self, caller: &Caller, request: TokenImport) -> Result<Imported> {
        let target = match &request.tokens[..] {
            [one] => {
                target(&GrantKey { provider: one.provider.clone(), account: one.account.clone() })
            }
            many => format!("{} grants", many.len()),
        };
        let admin = self.clone();
        self.change(caller, "token.import", target, async move {
            if request.tokens.len() > FEW && !request.replace {
                let (keyring, providers) = (admin.keyring()?, &admin.inner.providers);
                let importer = Importer::new(keyring.clone(), Arc::clone(providers))?;
                return importer.grants(request.tokens.into_iter().map(Into::into).collect()).await;
            }
            let mut done = Imported::default();
            for token in request.tokens {
                let account = token.account.clone();
                match admin.take_over(token, request.replace).await {
                    Ok(()) => done.imported += 1,
                    Err(err @ (Error::InvalidConfig { .. } | Error::Conflict { .. })) => {
                        done.skipped.push(Skipped { account, reason: err.to_string() });
                    }
                    Err(err) => return Err(err),
                }
            }
            Ok(done)
        })
        .await
    }

    async fn take_over(&self, token: NewToken, replace: bool) -> Result<()> {
        let new = NewTokens::from(token);
        check_names(&new.key)?;
        if new.tokens.access.expose_secret().is_empty() {
            return Err(Error::invalid("access_token", "is empty"));
        }
        if !replace && self.store().grant(&new.key).await?.is_some() {
            let holder = "the vault; say --replace to put these tokens in its place".into();
            return Err(Error::Conflict { what: target(&new.key), holder });
        }
        self.vault().put(new).await.map(drop)
    }
}

impl From<NewToken> for NewTokens {
    fn from(token: NewToken) -> Self {
        let tokens = TokenSet {
            access: token.access_token,
            refresh: token.refresh_token.filter(|token| !token.expose_secret().is_empty()),
            access_expires_at: token.expires_at,
            refresh_expires_at: token.refresh_expires_at,
            idle_expires_at: None,
            scopes: token.scopes,
        };
        let key = GrantKey { provider: token.provider, account: token.account };
        Self { key, flow: GrantFlow::Imported, tokens, instances: token.instances }
    }
}

impl From<NewTokens> for NewToken {
    fn from(new: NewTokens) -> Self {
        Self {
            provider: new.key.provider,
            account: new.key.account,
            access_token: new.tokens.access,
            refresh_token: new.tokens.refresh,
            expires_at: new.tokens.access_expires_at,
            refresh_expires_at: new.tokens.refresh_expires_at,
            scopes: new.tokens.scopes,
            instances: new.instances,
        }
    }
}
