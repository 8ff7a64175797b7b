//! The pages that a person would see.

use std::collections::HashMap;

use hyper::http::request::Parts;

use crate::{
    body::Answer,
    flow::{Challenge, CodeRequest, Verdict},
    parse::{is_plain, scopes},
    server::Shared,
};

type Query = HashMap<String, String>;

fn read(text: &[u8]) -> Query {
    form_urlencoded::parse(text).into_owned().collect()
}

/// Everybody says yes at once: the answer is the way back, with a code for the account that `login_hint` names.
pub(crate) fn authorize(shared: &Shared, head: &Parts) -> Answer {
    let query = read(head.uri.query().unwrap_or_default().as_bytes());
    let get = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
    let refuse = |text: &str| Answer::html(400, &format!("<html><h1>{text}</h1></html>"));
    let mut state = shared.lock();
    let Some(client) = state.client(get("client_id")) else { return refuse("unknown client") };
    let back = get("redirect_uri");
    if !back.starts_with("http") {
        return refuse("redirect_uri is missing");
    }
    let public = state.clients[client as usize].secret.is_none();
    let challenge = match (query.get("code_challenge"), get("code_challenge_method")) {
        (None, _) if public => {
            return way_back(back, &[("error", "invalid_request"), ("state", get("state"))]);
        }
        (None, _) => None,
        (Some(text), "S256") => Some(Challenge::S256(text.clone())),
        (Some(text), _) => Some(Challenge::Plain(text.clone())),
    };
    if get("response_type") != "code" {
        return way_back(back, &[("error", "unsupported_response_type"), ("state", get("state"))]);
    }
    let account = query.get("login_hint").filter(|name| is_plain(name));
    let code = state.give_code(
        client,
        CodeRequest {
            account: account.map_or("somebody", String::as_str).to_owned(),
            scopes: scopes(query.get("scope").map(String::as_str)),
            redirect_uri: back.to_owned(),
            challenge,
        },
    );
    way_back(back, &[("code", &code), ("state", get("state"))])
}

fn way_back(to: &str, pairs: &[(&str, &str)]) -> Answer {
    let pairs = pairs.iter().filter(|(_, value)| !value.is_empty());
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    let mark = if to.contains('?') { '&' } else { '?' };
    Answer::html(302, "").with("location", format!("{to}{mark}{query}"))
}

/// The page where a device code is approved.
pub(crate) fn activate(shared: &Shared, head: &Parts, body: &[u8]) -> Answer {
    let mut query = read(head.uri.query().unwrap_or_default().as_bytes());
    query.extend(read(body));
    let code = query.get("user_code").filter(|code| is_plain(code)).cloned().unwrap_or_default();
    let account = query.get("account").filter(|name| is_plain(name));
    if head.method != hyper::Method::POST {
        return Answer::html(
            200,
            &format!(
                "<html><h1>Mock provider</h1><form method=\"post\" action=\"/activate\">\
             <p>Code <input name=\"user_code\" value=\"{}\"></p>\
             <p>You are <input name=\"account\" value=\"somebody\"></p>\
             <button>Allow</button> <button name=\"deny\" value=\"1\">Deny</button></form></html>",
                code.replace('<', "")
            ),
        );
    }
    let verdict = match account {
        _ if query.contains_key("deny") => Verdict::Denied,
        Some(account) => Verdict::Approved { account: account.clone() },
        None => return Answer::html(400, "<html><h1>Who are you?</h1></html>"),
    };
    if shared.lock().judge_device(&code, &verdict) {
        return Answer::html(200, "<html><h1>Done. You can close this page.</h1></html>");
    }
    Answer::html(404, "<html><h1>There is no such code.</h1></html>")
}
