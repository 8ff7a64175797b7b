//! The one visit of a browser that counts: at the right path, with the right state.

use std::time::Duration;

use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::{Error, Result};

/// How long somebody may take to say yes.
const LIMIT: Duration = Duration::from_mins(10);
/// How long one visit may take to say what it wants.
const VISIT: Duration = Duration::from_secs(10);
/// How long to wait when no visit can be taken.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest head of a request in bytes.
const LARGEST: usize = 32 << 10;
/// Most visits at once; browsers open a few connections that they may never use.
const MOST: usize = 32;

/// What the provider has sent by the browser.
#[derive(Debug)]
pub(super) enum Visit {
    /// A code for tokens.
    Code(SecretString),
    /// No: its word for why.
    Refused(String),
}

/// Waits for the visit that knows `state`. All others are sent away and change nothing.
pub(super) async fn wait(
    listener: &TcpListener,
    path: &str,
    state: &SecretString,
) -> Result<Visit> {
    let waiting = async {
        let mut visits = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if visits.len() < MOST => match accepted {
                    Ok((stream, _)) => {
                        let (path, state) = (path.to_owned(), state.clone());
                        visits.spawn(async move {
                            timeout(VISIT, visit(stream, &path, &state)).await
                        });
                    }
                    // No descriptor left, perhaps: there may be one soon.
                    Err(_) => tokio::time::sleep(PAUSE).await,
                },
                Some(done) = visits.join_next() => {
                    if let Ok(Ok(Some(visit))) = done {
                        return visit;
                    }
                }
            }
        }
    };
    timeout(LIMIT, waiting)
        .await
        .map_err(|_| Error::Timeout { what: "the way back from the browser".into(), limit: LIMIT })
}

/// Serves one connection; the visit, if it is the right one.
async fn visit(mut stream: TcpStream, path: &str, state: &SecretString) -> Option<Visit> {
    let head = read_head(&mut stream).await?;
    let target = head.strip_prefix("GET ").and_then(|rest| rest.split(' ').next());
    // Only what begins with a slash: a whole URL as target is for proxies.
    let url = target
        .filter(|target| target.starts_with('/'))
        .and_then(|target| Url::parse(&format!("http://127.0.0.1{target}")).ok());
    let visit = url.as_ref().and_then(|url| read(url, path, state));
    let (status, text) = match (&visit, url.as_ref().is_some_and(|url| url.path() == path)) {
        (Some(Visit::Code(_)), _) => ("200 OK", "Done. You can close this page."),
        (Some(Visit::Refused(_)), _) => {
            ("200 OK", "It was not authorized. You can close this page.")
        }
        (None, true) => ("400 Bad Request", "This page belongs to another authorization."),
        (None, false) => ("404 Not Found", "There is nothing here."),
    };
    let page = format!("<!doctype html><meta charset=utf-8><title>kissops</title><p>{text}</p>");
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    // The page is a courtesy: what was brought counts without it.
    if stream.write_all(answer.as_bytes()).await.is_ok() {
        let _ = stream.shutdown().await;
    }
    visit
}

/// What an address brings, if it is the right one.
pub(super) fn read(url: &Url, path: &str, state: &SecretString) -> Option<Visit> {
    let value = |wanted: &str| {
        let found = url.query_pairs().find(|(key, _)| key == wanted);
        found.map(|(_, value)| value.into_owned())
    };
    if url.path() != path || !same(&value("state")?, state.expose_secret()) {
        return None;
    }
    if let Some(code) = value("code").filter(|code| !code.is_empty()) {
        return Some(Visit::Code(code.into()));
    }
    let word = value("error")?;
    let is_word = |c: char| c.is_ascii_alphabetic() || c == '_';
    Some(Visit::Refused(word.chars().filter(|c| is_word(*c)).take(40).collect()))
}

/// Equal, in a time that does not tell where they differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut some = [0; 2048];
        let count = stream.read(&mut some).await.ok()?;
        if count == 0 || head.len() + count > LARGEST {
            return None;
        }
        head.extend(some.iter().take(count));
    }
    String::from_utf8(head).ok()
}
