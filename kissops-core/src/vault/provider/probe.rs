//! Asking a provider whether a token is good, and revoking one.

use std::{collections::BTreeSet, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

use super::{
    ClientAuth, Provider, RevokeToken, TokenAuth,
    answer::{self, Said},
};
use crate::{
    Error, Result, Timestamp,
    vault::{
        Exchanged, RawAnswer, TokenRequest,
        http::{Call, Http},
    },
};

/// The longest that a probe or a revocation may take: nothing is lost by giving one up.
const LIMIT: Duration = Duration::from_secs(10);

/// What a provider says of an access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// It is good.
    Good {
        /// When it expires, if that is said.
        expires_at: Option<Timestamp>,
        /// What it allows, if that is said.
        scopes: Option<BTreeSet<String>>,
        /// The names that the account has, as far as they are said.
        account: Vec<String>,
    },
    /// It is not, or not any more.
    Dead {
        /// For people, free of secrets.
        detail: String,
    },
    /// There is no knowing now, or never.
    Unknown {
        /// For people, free of secrets.
        detail: String,
    },
}

impl Provider {
    /// There is somebody to ask.
    #[must_use]
    pub fn can_probe(&self) -> bool {
        self.profile.validate_url.is_some()
    }

    /// Asks whether an access token is good.
    ///
    /// # Cancel safety
    /// Nothing changes by asking.
    pub async fn probe(&self, http: &Http, access: &SecretString) -> Probed {
        let Some(url) = &self.profile.validate_url else {
            return Probed::Unknown { detail: format!("{} cannot be asked", self.name) };
        };
        let auth = self.profile.validate_auth;
        let request = match auth {
            TokenAuth::Introspect => {
                let form = vec![
                    ("token".to_owned(), access.clone()),
                    ("token_type_hint".to_owned(), "access_token".into()),
                ];
                self.request(url, self.profile.client_auth, form)
            }
            TokenAuth::Form => {
                let form = vec![("access_token".to_owned(), access.clone())];
                self.request(url, ClientAuth::None, form)
            }
            TokenAuth::Bearer | TokenAuth::OAuth => {
                let word = if auth == TokenAuth::OAuth { "OAuth" } else { "Bearer" };
                let mut request = self.request(url, ClientAuth::None, Vec::new());
                let value = format!("{word} {}", access.expose_secret());
                request.headers.push(("authorization".to_owned(), value.into()));
                request
            }
        };
        let mut call = Call::post(&request, LIMIT);
        if matches!(auth, TokenAuth::Bearer | TokenAuth::OAuth) {
            call.form = None;
        }
        match http.send(call).await {
            Exchanged::Answered(answer) => self.read_probe(&answer),
            Exchanged::NotSent(err) | Exchanged::Unanswered(err) => {
                Probed::Unknown { detail: err.chain() }
            }
        }
    }

    fn read_probe(&self, answer: &RawAnswer) -> Probed {
        let object = answer::object(answer);
        let said = Said::new(answer.status, object.as_ref());
        let introspects = self.profile.validate_auth == TokenAuth::Introspect;
        match (answer.status, object) {
            (200, Some(object)) if object.get("active") == Some(&Value::Bool(false)) => {
                Probed::Dead { detail: "it says that the token is not active".to_owned() }
            }
            (200, Some(object)) if said.code().is_none() => self.good(answer, &object),
            (400 | 401, Some(_)) if said.code().as_deref() == Some("invalid_token") => {
                Probed::Dead { detail: said.detail(None) }
            }
            // Of an introspection, any other 401 speaks of our own client.
            (401, Some(_)) if !introspects => Probed::Dead { detail: said.detail(None) },
            _ => Probed::Unknown { detail: said.detail(None) },
        }
    }

    fn good(&self, answer: &RawAnswer, object: &Map<String, Value>) -> Probed {
        let life = answer::life(object.get("expires_in")).map(|life| answer.sent_at.plus(life));
        let end = || {
            let seconds = answer::seconds(object.get("exp"))?;
            Some(Timestamp::default().plus(seconds))
        };
        let date = || object.get("expires")?.as_str()?.parse().ok();
        Probed::Good {
            expires_at: life.or_else(end).or_else(date),
            scopes: ["scopes", "scope"].iter().find_map(|key| answer::scopes(object.get(*key))),
            account: self.profile.account.iter().filter_map(|path| name_at(object, path)).collect(),
        }
    }

    /// Revokes the tokens of a grant at the provider. One that is not good any more counts as revoked, unless a refresh
    /// token that cannot be revoked itself may still be good. Each is tried, whatever becomes of the others.
    ///
    /// # Errors
    /// The first of these:
    /// - [`WrongState`](Error::WrongState) if the provider has no way to do so, or would have to be given an access token
    ///   that is good; what to do by hand is said then.
    /// - [`Unavailable`](Error::Unavailable) if it does not answer or does not confirm it.
    ///
    /// # Cancel safety
    /// A dropped call may have revoked some of them.
    pub async fn revoke(
        &self,
        http: &Http,
        access: &SecretString,
        refresh: Option<&SecretString>,
    ) -> Result<()> {
        let Some(url) = &self.profile.revoke_url else {
            return Err(self.by_hand("without a way to revoke tokens"));
        };
        let access = ("access_token", access);
        let refresh = refresh.map(|token| ("refresh_token", token));
        let tokens: Vec<_> = match self.profile.revoke_token {
            RevokeToken::Access => vec![access],
            RevokeToken::Either => vec![refresh.unwrap_or(access)],
            RevokeToken::Both => refresh.into_iter().chain([access]).collect(),
        };
        let auth = self.profile.revoke_auth.unwrap_or(self.profile.client_auth);
        let mut failed = None;
        for (kind, token) in tokens {
            let mut form = vec![("token".to_owned(), token.clone())];
            // Twitch's is not RFC 7009 and knows no such word.
            if auth != ClientAuth::Id {
                form.push(("token_type_hint".to_owned(), kind.into()));
            }
            let lives_on = self.profile.revoke_token == RevokeToken::Access && refresh.is_some();
            let done = match self.revoke_one(http, &self.request(url, auth, form)).await {
                Ok(Revoked::Unknown) if lives_on => Err(self.by_hand(
                    "out of reach of a revocation: the access token has expired, the refresh token may be good",
                )),
                done => done.map(drop),
            };
            failed = failed.or(done.err());
        }
        failed.map_or(Ok(()), Err)
    }

    fn by_hand(&self, state: &str) -> Error {
        let page = self.manage_url().map_or_else(String::new, |url| format!(" at {url}"));
        Error::WrongState {
            what: format!("provider `{}`", self.name),
            state: state.into(),
            help: format!("the account's owner has to remove the application{page}"),
        }
    }

    async fn revoke_one(&self, http: &Http, request: &TokenRequest) -> Result<Revoked> {
        let answer = match http.send(Call::post(request, LIMIT)).await {
            Exchanged::Answered(answer) => answer,
            Exchanged::NotSent(err) | Exchanged::Unanswered(err) => return Err(err),
        };
        let said = Self::said(&answer);
        let gone =
            said.code().as_deref() == Some("invalid_token") || said.mentions("invalid token");
        match answer.status {
            200..300 => return Ok(Revoked::Confirmed),
            400..500 if gone => return Ok(Revoked::Unknown),
            _ => {}
        }
        let what = format!("revocation at {}", self.name);
        Err(Error::Unavailable { what, source: said.detail(None).into() })
    }
}

/// What a provider says to a revocation.
enum Revoked {
    /// It is carried out.
    Confirmed,
    /// There is no such token, or not any more.
    Unknown,
}

/// The text, or the number, at a dotted path.
fn name_at(object: &Map<String, Value>, path: &str) -> Option<String> {
    let mut parts = path.split('.');
    let first = object.get(parts.next()?)?;
    let value = parts.try_fold(first, |value, part| value.get(part))?;
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
