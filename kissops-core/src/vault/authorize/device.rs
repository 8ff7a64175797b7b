//! Device codes, RFC 8628: the account's owner types a code on a device of theirs, and we ask until they have.

use std::{collections::BTreeSet, fmt, time::Duration};

use secrecy::SecretString;

use super::Authorizer;
use crate::{
    Error, Result, Timestamp,
    store::GrantFlow,
    vault::{
        Answer, ClientAuth, NewTokens, Provider, RawAnswer, TokenRequest,
        provider::{answer, joined},
    },
};

/// What RFC 8628 asks for where the answer does not say.
const INTERVAL: Duration = Duration::from_secs(5);
/// What is added to the interval when the provider asks us to slow down.
const SLOWER: Duration = Duration::from_secs(5);
/// The longest that we wait, whatever the provider says.
const LONGEST: Duration = Duration::from_hours(1);

/// A code for the account's owner to type, and where.
#[derive(Clone)]
pub struct DeviceCode {
    /// Where it is typed.
    pub verification_uri: String,
    /// The same with the code in it, if the provider has such a page.
    pub verification_uri_complete: Option<String>,
    /// The code.
    pub user_code: String,
    /// When it expires.
    pub expires_at: Timestamp,
    /// What is polled with.
    secret: SecretString,
    interval: Duration,
    /// When it expires, on the vault's own clock.
    until: Duration,
    scopes: BTreeSet<String>,
}

impl fmt::Debug for DeviceCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceCode")
            .field("verification_uri", &self.verification_uri)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl Authorizer {
    /// Asks for a device code. No scopes: those of the profile.
    ///
    /// # Errors
    /// - [`WrongState`](Error::WrongState) if the provider has no device codes.
    /// - [`Denied`](Error::Denied) if it refuses the client.
    /// - [`Unavailable`](Error::Unavailable) if it does not answer.
    pub async fn device_code(&self, scopes: &BTreeSet<String>) -> Result<DeviceCode> {
        let profile = self.provider.profile();
        let url = profile.device_url.as_deref().ok_or_else(|| Error::WrongState {
            what: format!("provider `{}`", self.provider.name()),
            state: "without device codes".into(),
            help: "authorize in a browser instead".into(),
        })?;
        let scopes = self.scopes(scopes);
        let form = match &*joined(&scopes) {
            "" => Vec::new(),
            all => vec![(profile.device_scopes.clone(), all.into())],
        };
        let request = self.provider.request(url, ClientAuth::Id, form);
        let answer = self.send(&request).await?;
        let object = answer::object(&answer).filter(|_| answer.status == 200);
        let text = |key: &str| {
            let value = object.as_ref()?.get(key)?.as_str()?;
            (!value.is_empty()).then(|| value.to_owned())
        };
        let span = |key: &str| answer::seconds(object.as_ref().and_then(|object| object.get(key)));
        // Google says `verification_url`.
        let page = text("verification_uri").or_else(|| text("verification_url"));
        let (Some(device_code), Some(user_code), Some(verification_uri)) =
            (text("device_code"), text("user_code"), page)
        else {
            return Err(self.no_code(&answer));
        };
        let life = span("expires_in").map_or(LONGEST, |life| life.min(LONGEST));
        Ok(DeviceCode {
            verification_uri,
            verification_uri_complete: text("verification_uri_complete")
                .or_else(|| text("verification_url_complete")),
            user_code,
            expires_at: answer.sent_at.plus(life),
            secret: device_code.into(),
            interval: span("interval").unwrap_or(INTERVAL),
            until: self.time.elapsed().saturating_add(life),
            scopes,
        })
    }

    fn no_code(&self, answer: &RawAnswer) -> Error {
        match self.tokens(answer) {
            Err(err) => err,
            // Tokens at the wrong place; whoever asked has the wrong address.
            Ok(_) => Error::Unavailable {
                what: self.provider.name().into(),
                source: "it gave no device code".into(),
            },
        }
    }

    /// Waits until the account's owner has typed the code, and takes the tokens.
    ///
    /// # Errors
    /// - [`Denied`](Error::Denied) if they refuse, or it is another account than `account`.
    /// - [`WrongState`](Error::WrongState) if the code expires before.
    ///
    /// # Cancel safety
    /// A dropped call may have taken the tokens; then a new code is needed.
    pub async fn wait(&self, code: &DeviceCode, account: &str) -> Result<NewTokens> {
        let mut interval = code.interval;
        loop {
            let next = self.time.elapsed().saturating_add(interval);
            if next >= code.until {
                return Err(expired(code));
            }
            self.time.sleep_until(next).await;
            let Ok(answer) = self.send(&self.poll(code)).await else {
                // It may be away for a moment.
                interval = interval.saturating_add(SLOWER).min(LONGEST);
                continue;
            };
            let said = Provider::said(&answer);
            if said.is("expired_token") || said.is("invalid device code") {
                return Err(expired(code));
            }
            if said.is("access_denied") {
                return Err(Error::Denied {
                    what: format!("{account} has refused the authorization"),
                    help: "begin it again if that was a mistake".into(),
                });
            }
            if said.is("authorization_pending") {
                continue;
            }
            let after = match self.provider.read(&answer) {
                Answer::Retry { after, .. } => after,
                // A gateway that has lost its server: the code is still good, or the next answer says that it is not.
                Answer::Unclear { .. } => None,
                _ => {
                    return self.owned(account, GrantFlow::DeviceCode, &code.scopes, &answer).await;
                }
            };
            interval = interval.saturating_add(SLOWER).max(after.unwrap_or_default());
        }
    }

    fn poll(&self, code: &DeviceCode) -> TokenRequest {
        const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
        let mut form = vec![
            ("grant_type".to_owned(), GRANT.into()),
            ("device_code".to_owned(), code.secret.clone()),
        ];
        // Who has a word of their own for scopes wants them here again.
        let word = &self.provider.profile().device_scopes;
        if word != "scope" && !code.scopes.is_empty() {
            form.push((word.clone(), joined(&code.scopes).into()));
        }
        self.provider.token_request(form)
    }
}

fn expired(code: &DeviceCode) -> Error {
    Error::WrongState {
        what: format!("device code {}", code.user_code),
        state: "expired".into(),
        help: "begin the authorization again".into(),
    }
}
