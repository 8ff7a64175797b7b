//! How the providers word things: what they take, what they give, and how they refuse.

use std::fmt::Write as _;

use crate::knobs::{Endpoint, Reply};

/// Whose manners an endpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// RFC 6749, 6750, 7009, 8628.
    Generic,
    Twitch,
    Discord,
    Google,
    Reddit,
    Spotify,
}

/// Why something is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    InvalidGrant,
    UnknownClient,
    BadSecret,
    MissingSecret,
    BadRequest(&'static str),
    UnsupportedGrant,
    Pending,
    SlowDown,
    ExpiredCode,
    Denied,
    InvalidToken,
    NoUserAgent,
    TooMany { retry_after_s: u64 },
}

/// What a token endpoint hands out.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) access: String,
    pub(crate) refresh: Option<String>,
    pub(crate) expires_in_s: i64,
    pub(crate) scopes: std::sync::Arc<[String]>,
}

/// Whose token it is.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) client: String,
    /// None for the client's own token.
    pub(crate) account: Option<(String, u64)>,
    pub(crate) scopes: std::sync::Arc<[String]>,
    pub(crate) expires_in_s: i64,
}

impl Flavour {
    /// The life of an access token, where nothing is set.
    pub(crate) fn lifetime_ms(self) -> u64 {
        match self {
            Self::Twitch => 4 * 3_600_000,
            Self::Discord => 7 * 86_400_000,
            _ => 3_600_000,
        }
    }

    /// How a client may say who it is: by `Authorization: Basic`, and in the body.
    pub(crate) fn takes_secret_in(self) -> (bool, bool) {
        match self {
            Self::Twitch => (false, true),
            Self::Reddit | Self::Spotify => (true, false),
            Self::Generic | Self::Discord | Self::Google => (true, true),
        }
    }

    /// A refresh token that has not changed is told again.
    pub(crate) fn repeats_refresh_token(self) -> bool {
        !matches!(self, Self::Google | Self::Spotify)
    }

    /// The body of a successful answer; `but` leaves out or breaks one member.
    pub(crate) fn tokens(self, issued: &Issued, but: Reply) -> String {
        let access = if but == Reply::EmptyAccessToken { "" } else { &issued.access };
        // Nothing in a token or scope needs escaping; names of scopes are checked when they come in.
        let mut body = format!("{{\"access_token\":\"{access}\"");
        if but != Reply::MissingExpiresIn {
            let _ = write!(body, ",\"expires_in\":{}", issued.expires_in_s);
        }
        if let Some(refresh) = &issued.refresh {
            let _ = write!(body, ",\"refresh_token\":\"{refresh}\"");
        }
        match but {
            Reply::MissingScope => {}
            Reply::NullScopes => body.push_str(",\"scope\":null"),
            _ if self == Self::Twitch => {
                body.push_str(",\"scope\":");
                push_list(&mut body, &issued.scopes);
            }
            _ => {
                let _ = write!(body, ",\"scope\":\"{}\"", issued.scopes.join(" "));
            }
        }
        if but != Reply::MissingTokenType {
            let kind = if self == Self::Twitch { "bearer" } else { "Bearer" };
            let _ = write!(body, ",\"token_type\":\"{kind}\"");
        }
        body.push('}');
        body
    }

    /// What is said of a token that is good.
    pub(crate) fn valid(self, owner: &Owner, but: Reply) -> String {
        let mut scopes = String::new();
        push_list(&mut scopes, &owner.scopes);
        if but == Reply::NullScopes {
            "null".clone_into(&mut scopes);
        }
        let (client, expires) = (&owner.client, owner.expires_in_s);
        let Some((name, id)) = &owner.account else {
            return format!(
                "{{\"client_id\":\"{client}\",\"scopes\":{scopes},\"expires_in\":{expires}}}"
            );
        };
        let list = owner.scopes.join(" ");
        match self {
            Self::Twitch => format!(
                "{{\"client_id\":\"{client}\",\"login\":\"{name}\",\"scopes\":{scopes},\"user_id\":\"{id}\",\"expires_in\":{expires}}}"
            ),
            Self::Generic => format!(
                "{{\"active\":true,\"client_id\":\"{client}\",\"username\":\"{name}\",\"sub\":\"{id}\",\"scope\":\"{list}\",\"expires_in\":{expires}}}"
            ),
            Self::Discord => format!(
                "{{\"application\":{{\"id\":\"{client}\"}},\"scopes\":{scopes},\"user\":{{\"id\":\"{id}\",\"username\":\"{name}\"}}}}"
            ),
            Self::Google => format!(
                "{{\"azp\":\"{client}\",\"aud\":\"{client}\",\"sub\":\"{id}\",\"scope\":\"{list}\",\"expires_in\":\"{expires}\",\"email\":\"{name}@example.org\"}}"
            ),
            Self::Reddit => format!("{{\"id\":\"{id}\",\"name\":\"{name}\"}}"),
            // An account's id is its name there; what it is shown as may be anything.
            Self::Spotify => format!("{{\"id\":\"{name}\",\"display_name\":\"anybody\"}}"),
        }
    }

    /// What an API says of the token's owner.
    pub(crate) fn user(self, owner: &Owner) -> String {
        match (self, &owner.account) {
            (Self::Twitch, Some((name, id))) => format!(
                "{{\"data\":[{{\"id\":\"{id}\",\"login\":\"{name}\",\"display_name\":\"{name}\",\"type\":\"\",\"broadcaster_type\":\"\"}}]}}"
            ),
            (Self::Twitch, None) => "{\"data\":[]}".to_owned(),
            (Self::Discord, Some((name, id))) => {
                format!("{{\"id\":\"{id}\",\"username\":\"{name}\"}}")
            }
            _ => self.valid(owner, Reply::Ok),
        }
    }

    /// A refusal as this provider words it.
    pub(crate) fn refusal(self, refusal: Refusal, at: Endpoint) -> (u16, String) {
        if let Refusal::TooMany { .. } | Refusal::NoUserAgent = refusal {
            return (429, self.plain_error(429, "Too Many Requests"));
        }
        match self {
            Self::Twitch => twitch(refusal, at),
            Self::Reddit if refusal == Refusal::InvalidGrant => {
                (400, self.plain_error(400, "Bad Request"))
            }
            _ if refusal == Refusal::InvalidToken && at != Endpoint::Token => {
                (401, self.dead_token())
            }
            _ => self.oauth(refusal),
        }
    }

    /// An error that is not about OAuth: `{"status":503,"message":"…"}` in the words of the house.
    pub(crate) fn plain_error(self, status: u16, message: &str) -> String {
        match self {
            Self::Twitch => {
                format!("{{\"error\":\"{message}\",\"status\":{status},\"message\":\"{message}\"}}")
            }
            Self::Discord => format!("{{\"message\":\"{status}: {message}\",\"code\":0}}"),
            Self::Reddit => format!("{{\"message\":\"{message}\",\"error\":{status}}}"),
            Self::Google | Self::Spotify => {
                format!(
                    "{{\"error\":{{\"code\":{status},\"status\":{status},\"message\":\"{message}\"}}}}"
                )
            }
            Self::Generic => {
                format!("{{\"error\":\"server_error\",\"error_description\":\"{message}\"}}")
            }
        }
    }

    fn dead_token(self) -> String {
        match self {
            Self::Discord | Self::Reddit => self.plain_error(401, "Unauthorized"),
            Self::Spotify => self.plain_error(401, "The access token expired"),
            Self::Google => {
                "{\"error\":\"invalid_token\",\"error_description\":\"Invalid Value\"}".to_owned()
            }
            Self::Generic | Self::Twitch => "{\"error\":\"invalid_token\"}".to_owned(),
        }
    }

    fn oauth(self, refusal: Refusal) -> (u16, String) {
        let google = self == Self::Google;
        let client = if self == Self::Spotify { 400 } else { 401 };
        let (status, code, text) = match refusal {
            Refusal::InvalidGrant if google => {
                (400, "invalid_grant", "Token has been expired or revoked.")
            }
            Refusal::InvalidGrant if self == Self::Spotify => {
                (400, "invalid_grant", "Refresh token revoked")
            }
            Refusal::InvalidGrant => {
                (400, "invalid_grant", "the grant is expired, used or unknown")
            }
            Refusal::UnknownClient => (client, "invalid_client", "Invalid client"),
            Refusal::BadSecret | Refusal::MissingSecret => {
                (client, "invalid_client", "Invalid client secret")
            }
            Refusal::BadRequest(text) => (400, "invalid_request", text),
            Refusal::UnsupportedGrant => (400, "unsupported_grant_type", "not this grant type"),
            Refusal::Pending => {
                (if google { 428 } else { 400 }, "authorization_pending", "nobody has approved yet")
            }
            Refusal::SlowDown => (if google { 403 } else { 400 }, "slow_down", "ask less often"),
            Refusal::ExpiredCode => (400, "expired_token", "the device code has expired"),
            Refusal::Denied => (if google { 403 } else { 400 }, "access_denied", "it was denied"),
            Refusal::InvalidToken => (400, "invalid_token", "the token is not valid"),
            Refusal::NoUserAgent | Refusal::TooMany { .. } => (429, "slow_down", "too many"),
        };
        (status, format!("{{\"error\":\"{code}\",\"error_description\":\"{text}\"}}"))
    }
}

fn twitch(refusal: Refusal, at: Endpoint) -> (u16, String) {
    if refusal == Refusal::InvalidToken && at == Endpoint::Api {
        let body =
            "{\"error\":\"Unauthorized\",\"status\":401,\"message\":\"Invalid OAuth token\"}";
        return (401, body.to_owned());
    }
    let (status, message) = match refusal {
        Refusal::InvalidGrant => (400, "Invalid refresh token"),
        Refusal::UnknownClient if at == Endpoint::Revoke => (404, "client does not exist"),
        Refusal::UnknownClient => (400, "invalid client"),
        Refusal::BadSecret => (403, "invalid client secret"),
        Refusal::MissingSecret => (400, "missing client secret"),
        Refusal::BadRequest(text) => (400, text),
        Refusal::UnsupportedGrant => (400, "invalid grant type"),
        Refusal::Pending => (400, "authorization_pending"),
        Refusal::SlowDown => (400, "slow_down"),
        Refusal::ExpiredCode => (400, "invalid device code"),
        Refusal::Denied => (400, "access_denied"),
        Refusal::InvalidToken if at == Endpoint::Revoke => (400, "Invalid token"),
        Refusal::InvalidToken => (401, "invalid access token"),
        Refusal::NoUserAgent | Refusal::TooMany { .. } => (429, "Too Many Requests"),
    };
    (status, format!("{{\"status\":{status},\"message\":\"{message}\"}}"))
}

fn push_list(body: &mut String, items: &[String]) {
    body.push('[');
    for (at, item) in items.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let _ = write!(body, "{comma}\"{item}\"");
    }
    body.push(']');
}
