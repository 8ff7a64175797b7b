//! What a request asks for.

use std::{collections::HashMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, USER_AGENT},
    http::request::Parts,
};

use crate::{
    flavour::{Flavour, Refusal},
    job::{Asked, Claim, Job},
    knobs::Endpoint,
};

/// What must not be in a URL, where every proxy logs it.
const SECRETS: [&str; 6] =
    ["client_secret", "refresh_token", "access_token", "token", "code", "device_code"];

type Form = HashMap<String, String>;

/// The job, and whether there was a secret in its URL: such a job asks for nothing.
pub(crate) fn job(
    head: &Parts,
    body: &[u8],
    endpoint: Endpoint,
    flavour: Flavour,
    base: Arc<str>,
) -> (Job, bool) {
    let query = head.uri.query().unwrap_or_default();
    let leaked = form_urlencoded::parse(query.as_bytes()).any(|(key, _)| SECRETS.contains(&&*key));
    let mut claim = Claim::default();
    let asked = if leaked {
        Err("secrets do not belong in a URL")
    } else {
        read_form(head, body).and_then(|form| {
            claim = read_claim(&head.headers, &form)?;
            ask(head, form, endpoint)
        })
    };
    let asked = match asked {
        Ok(_) if flavour == Flavour::Reddit && has_no_name(&head.headers) => {
            Asked::Nothing(Refusal::NoUserAgent)
        }
        Ok(asked) => asked,
        Err(text) => Asked::Nothing(Refusal::BadRequest(text)),
    };
    (Job { endpoint, flavour, claim, asked, base }, leaked)
}

fn has_no_name(headers: &HeaderMap) -> bool {
    let name = headers.get(USER_AGENT).and_then(|name| name.to_str().ok()).unwrap_or_default();
    name.is_empty() || ["python-", "curl/", "reqwest"].iter().any(|start| name.starts_with(start))
}

fn read_form(head: &Parts, body: &[u8]) -> Result<Form, &'static str> {
    if body.is_empty() {
        return Ok(Form::new());
    }
    let kind =
        head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/x-www-form-urlencoded") {
        return Err("the body must be a form");
    }
    let mut form = Form::with_capacity(6);
    for (key, value) in form_urlencoded::parse(body) {
        if form.insert(key.into_owned(), value.into_owned()).is_some() {
            return Err("a parameter is repeated");
        }
    }
    Ok(form)
}

fn read_claim(headers: &HeaderMap, form: &Form) -> Result<Claim, &'static str> {
    let (id, secret) = (form.get("client_id").cloned(), form.get("client_secret").cloned());
    let Some(basic) = credentials(headers, &["basic"]) else {
        return Ok(Claim { id, secret, basic: false });
    };
    if secret.is_some() {
        return Err("the client says twice who it is");
    }
    let text = STANDARD.decode(basic).ok().and_then(|text| String::from_utf8(text).ok());
    let text = text.ok_or("the Authorization header is not valid")?;
    let (id, secret) = text.split_once(':').ok_or("the Authorization header is not valid")?;
    Ok(Claim { id: Some(decoded(id)), secret: Some(decoded(secret)), basic: true })
}

/// As in a form: RFC 6749, 2.3.1.
fn decoded(text: &str) -> String {
    let mut pairs = form_urlencoded::parse(text.as_bytes());
    pairs.next().map(|(key, _)| key.into_owned()).unwrap_or_default()
}

fn credentials(headers: &HeaderMap, schemes: &[&str]) -> Option<String> {
    let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let known = schemes.iter().any(|known| scheme.eq_ignore_ascii_case(known));
    known.then(|| rest.trim().to_owned())
}

fn ask(head: &Parts, mut form: Form, endpoint: Endpoint) -> Result<Asked, &'static str> {
    let mut take = |key: &str| form.remove(key);
    let bearer = || credentials(&head.headers, &["bearer", "oauth"]);
    Ok(match endpoint {
        Endpoint::Token => match take("grant_type").as_deref() {
            Some("refresh_token") => {
                Asked::Refresh { token: take("refresh_token").ok_or("missing refresh token")? }
            }
            Some("authorization_code") => Asked::Code {
                code: take("code").ok_or("missing code")?,
                redirect_uri: take("redirect_uri"),
                verifier: take("code_verifier"),
            },
            Some("urn:ietf:params:oauth:grant-type:device_code") => {
                Asked::DevicePoll { code: take("device_code").ok_or("missing device code")? }
            }
            Some("client_credentials") => Asked::App { scopes: scopes(take("scope").as_deref()) },
            Some(_) => Asked::Nothing(Refusal::UnsupportedGrant),
            None => return Err("missing grant type"),
        },
        Endpoint::Validate if head.uri.path() == "/introspect" => {
            Asked::Introspect { token: take("token").ok_or("missing token")? }
        }
        Endpoint::Validate => {
            let token = bearer().or_else(|| take("token")).or_else(|| take("access_token"));
            token.map_or(Asked::Nothing(Refusal::InvalidToken), |token| Asked::Validate { token })
        }
        Endpoint::Api => {
            bearer().map_or(Asked::Nothing(Refusal::InvalidToken), |token| Asked::Api { token })
        }
        Endpoint::Revoke => Asked::Revoke { token: take("token").ok_or("missing token")? },
        Endpoint::Device => {
            let list = take("scopes").or_else(|| take("scope"));
            Asked::DeviceStart { scopes: scopes(list.as_deref()) }
        }
    })
}

/// Names of scopes; none that would need escaping in an answer.
pub(crate) fn scopes(list: Option<&str>) -> Arc<[String]> {
    let names = list.unwrap_or_default().split_whitespace();
    names.filter(|name| is_plain(name)).map(str::to_owned).collect()
}

/// Can stand between quotation marks as it is.
pub(crate) fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}
