//! First tokens: by a code typed on another device, in a browser, or for the client itself.

use std::{collections::BTreeSet, fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{
    Answer, Exchanged, Http, NewTokens, Probed, Provider, RawAnswer, RevokeToken, TokenRequest,
    TokenSet, VaultTime, http::Call,
};
use crate::{
    Error, Result,
    store::{GrantFlow, GrantKey},
};

mod browser;
mod callback;
mod device;
#[cfg(test)]
mod tests;

pub use browser::BrowserFlow;
pub use device::DeviceCode;

/// Gets first tokens from one provider. What it gives is kept with [`TokenVault::put`](super::TokenVault::put).
#[derive(Clone)]
pub struct Authorizer {
    provider: Arc<Provider>,
    http: Http,
    time: Arc<dyn VaultTime>,
}

impl Authorizer {
    /// For one provider.
    pub fn new(provider: Arc<Provider>, http: Http, time: Arc<dyn VaultTime>) -> Self {
        Self { provider, http, time }
    }

    /// Tokens for the client itself; `account` is merely what they are called.
    ///
    /// # Errors
    /// - [`Denied`](Error::Denied) if the provider refuses the client.
    /// - [`Unavailable`](Error::Unavailable) if it does not answer.
    pub async fn client_credentials(
        &self,
        account: &str,
        scopes: &BTreeSet<String>,
    ) -> Result<NewTokens> {
        let request = self.provider.client_credentials_request(scopes);
        let answer = self.send(&request).await?;
        let at = answer.sent_at;
        let mut tokens = self.tokens(&answer)?;
        tokens.scopes = tokens.scopes.or_else(|| Some(scopes.clone()));
        let tokens = self.provider.authorized(tokens, at);
        Ok(self.named(account, GrantFlow::ClientCredentials, tokens))
    }

    /// The scopes to ask for: those that are wanted, or the profile's.
    fn scopes(&self, wanted: &BTreeSet<String>) -> BTreeSet<String> {
        if wanted.is_empty() {
            self.provider.profile().scopes.iter().cloned().collect()
        } else {
            wanted.clone()
        }
    }

    async fn send(&self, request: &TokenRequest) -> Result<RawAnswer> {
        let limit = self.provider.limits().exchange_limit;
        match self.http.send(Call::post(request, limit)).await {
            Exchanged::Answered(answer) => Ok(answer),
            Exchanged::NotSent(err) | Exchanged::Unanswered(err) => Err(err),
        }
    }

    fn tokens(&self, answer: &RawAnswer) -> Result<TokenSet> {
        match self.provider.read(answer) {
            Answer::Tokens(tokens) => Ok(tokens),
            Answer::Misconfigured { detail } => Err(Error::Denied {
                what: format!("{} refuses our client: {detail}", self.provider.name()),
                help: format!(
                    "check client_id and client_secret in [vault.provider.{}]",
                    self.provider.name()
                ),
            }),
            Answer::Terminal { detail } => Err(Error::Denied {
                what: format!("{} refuses: {detail}", self.provider.name()),
                help: "begin the authorization again".into(),
            }),
            Answer::Retry { detail, .. } | Answer::Unclear { detail } => {
                Err(Error::Unavailable { what: self.provider.name().into(), source: detail.into() })
            }
        }
    }

    /// The tokens of a new authorization, after asking whose they are: nothing is kept under a wrong name.
    async fn owned(
        &self,
        account: &str,
        flow: GrantFlow,
        asked: &BTreeSet<String>,
        answer: &RawAnswer,
    ) -> Result<NewTokens> {
        let mut tokens = self.tokens(answer)?;
        // Who cannot be asked, or does not answer now, is believed to be whom the caller expects.
        if let Probed::Good { expires_at, scopes, account: names } =
            self.provider.probe(&self.http, &tokens.access).await
        {
            let same = |name: &String| name.eq_ignore_ascii_case(account);
            if !names.is_empty() && !names.iter().any(same) {
                self.give_back(&tokens).await;
                let provider = self.provider.name();
                return Err(Error::Denied {
                    what: format!("this is the account {} at {provider}", names.join(", ")),
                    help: format!("log in there as {account}, or authorize the other by its name"),
                });
            }
            tokens.access_expires_at = expires_at.or(tokens.access_expires_at);
            tokens.scopes = tokens.scopes.or(scopes);
        }
        // An answer that does not say means what was asked for.
        tokens.scopes = tokens.scopes.or_else(|| Some(asked.clone()));
        let tokens = self.provider.authorized(tokens, answer.sent_at);
        Ok(self.named(account, flow, tokens))
    }

    /// Revokes tokens that are not wanted, as well as it goes. Only where that ends no more than these: at other
    /// providers it would end what the account has allowed our client before, too.
    async fn give_back(&self, tokens: &TokenSet) {
        if self.provider.profile().revoke_token != RevokeToken::Access {
            return;
        }
        let done = self.provider.revoke(&self.http, &tokens.access, tokens.refresh.as_ref()).await;
        if let Err(error) = done {
            tracing::warn!(error = %error.chain(), "tokens of another account than was asked for stay good");
        }
    }

    fn named(&self, account: &str, flow: GrantFlow, tokens: TokenSet) -> NewTokens {
        let key =
            GrantKey { provider: self.provider.name().to_owned(), account: account.to_owned() };
        NewTokens { key, flow, tokens, instances: None }
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorizer")
            .field("provider", &self.provider.name())
            .finish_non_exhaustive()
    }
}

/// 256 random bits, in characters that URLs have.
fn random_text() -> Result<SecretString> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    getrandom::fill(&mut *bytes).map_err(|err| Error::Unavailable {
        what: "the system's random generator".into(),
        source: err.to_string().into(),
    })?;
    Ok(URL_SAFE_NO_PAD.encode(*bytes).into())
}
