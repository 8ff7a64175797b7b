//! HTTP to providers: [`Http`] is a client with its own TLS, [`HttpExchanger`] sends token requests with it.
//!
//! A one-time token that is presented twice kills its grant, so three things matter more than usual here: nothing sends
//! a request a second time by itself, redirects are not followed, and after a failure it is certain whether any of the
//! body went out ([`departure`]).

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use reqwest::{
    Method, Url,
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use zeroize::Zeroizing;

use super::{ExchangeJob, Exchanged, Exchanger, RawAnswer, Ticket, TokenRequest, exchange::within};
use crate::{Error, Result, clock};
use departure::{Departure, Held};

mod address;
mod departure;
#[cfg(test)]
mod tests;
mod tls;

pub(crate) use address::safe_url;

/// What a provider is told about who asks, unless its profile says otherwise.
const USER_AGENT: &str =
    concat!("kissops/", env!("CARGO_PKG_VERSION"), " (+", env!("CARGO_PKG_REPOSITORY"), ")");

/// The longest that finding the host, connecting and the TLS handshake may take together.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Idle connections are kept for less than any usual server keeps them (Node: 5 s). One that the server closes in the
/// moment in which it is used leaves open whether the request arrived.
const IDLE_LIMIT: Duration = Duration::from_secs(3);

/// An HTTP client for providers. Cheap to clone: all clones share their connections.
///
/// It brings its own TLS (rustls with ring) and installs nothing for the process. It trusts the system's authorities, or
/// those that `SSL_CERT_FILE` names. It uses no proxy, keeps no cookies and speaks HTTP/1.1.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    /// Why https cannot work, if there is a reason.
    no_roots: Option<Arc<str>>,
}

impl Http {
    /// A client of its own.
    ///
    /// # Errors
    /// [`Unavailable`](Error::Unavailable) if TLS cannot be set up.
    pub fn new() -> Result<Self> {
        let (config, no_roots) = tls::system()?;
        Self::with_tls(config, no_roots)
    }

    fn with_tls(config: rustls::ClientConfig, no_roots: Option<String>) -> Result<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .dns_resolver(address::Resolver)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_LIMIT)
            .pool_idle_timeout(IDLE_LIMIT)
            .build()
            .map_err(Error::unavailable("the HTTP client"))?;
        Ok(Self { client, no_roots: no_roots.map(Into::into) })
    }

    /// Sends it and waits for the whole answer.
    ///
    /// # Cancel safety
    /// A dropped call may have sent it, but does not send it later.
    pub(crate) async fn send(&self, call: Call<'_>) -> Exchanged {
        let host = call.host();
        let departure = Departure::default();
        let request = match self.request(&call, &departure) {
            Ok(request) => request,
            Err(err) => return Exchanged::NotSent(err),
        };
        // Whoever drops this future before its end wants nothing to go out any more.
        let hold = departure.hold();
        let outcome = within(call.limit, receive(request)).await;
        let sent = hold.end();
        let error = match outcome {
            Some(Ok((status, retry_after, body))) => {
                let at = clock::now();
                let sent_at = at.minus(sent.since(clock::since_boot()));
                return Exchanged::Answered(RawAnswer { status, retry_after, body, sent_at, at });
            }
            Some(Err(source)) => source,
            None => {
                Error::Timeout { what: format!("the answer of {host}"), limit: call.limit }.into()
            }
        };
        match sent {
            Held::Back => Exchanged::NotSent(Error::Unavailable { what: host, source: error }),
            Held::TooLate => Exchanged::NotSent(Error::WrongState {
                what: format!("the request to {host}"),
                state: "too late to be sent".into(),
                help: "the right to send it may be another's by now".into(),
            }),
            Held::Sent(_) => Exchanged::Unanswered(Error::Uncertain { what: host, source: error }),
        }
    }

    fn request(&self, call: &Call<'_>, departure: &Departure) -> Result<reqwest::RequestBuilder> {
        let url = safe_url(call.url, call.insecure).map_err(|err| err.into_error("url"))?;
        if let Some(why) = self.no_roots.as_deref().filter(|_| url.scheme() == "https") {
            let what = format!("{}, as no authority is trusted", call.host());
            return Err(Error::Unavailable { what, source: why.into() });
        }
        let method = if call.form.is_some() { Method::POST } else { Method::GET };
        let mut request = self.client.request(method, url);
        for (name, value) in call.headers {
            let mut value = HeaderValue::from_str(value.expose_secret())
                .map_err(|_| Error::invalid(name, "holds what no HTTP header may"))?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        let Some(form) = call.form else {
            // Without a body there is nothing to wait for: it counts as sent from here on.
            departure.depart();
            return Ok(request);
        };
        Ok(request
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(departure.body(encode(form), call.send_before)))
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("no_roots", &self.no_roots).finish_non_exhaustive()
    }
}

/// One request to a provider.
pub(crate) struct Call<'a> {
    pub(crate) url: &'a str,
    pub(crate) headers: &'a [(String, SecretString)],
    /// The body of a POST; `None` makes it a GET.
    pub(crate) form: Option<&'a [(String, SecretString)]>,
    pub(crate) insecure: bool,
    pub(crate) limit: Duration,
    pub(crate) send_before: Option<Duration>,
}

impl<'a> Call<'a> {
    /// A POST of a form.
    pub(crate) fn post(request: &'a TokenRequest, limit: Duration) -> Self {
        Self {
            url: &request.url,
            headers: &request.headers,
            form: Some(&request.form),
            insecure: request.insecure,
            limit,
            send_before: None,
        }
    }

    /// Whom it goes to, for people.
    fn host(&self) -> String {
        let url = Url::parse(self.url).ok();
        let host = url.as_ref().and_then(Url::host_str).unwrap_or("the provider");
        match url.as_ref().and_then(Url::port) {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }
}

/// `application/x-www-form-urlencoded`, wiped when it is dropped.
fn encode(form: &[(String, SecretString)]) -> Zeroizing<Vec<u8>> {
    let most: usize = form.iter().map(|(k, v)| 3 * (k.len() + v.expose_secret().len()) + 2).sum();
    // At once as large as it can get: what grows leaves copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(most));
    for (key, value) in form {
        if !body.is_empty() {
            body.push(b'&');
        }
        encode_part(key, &mut body);
        body.push(b'=');
        encode_part(value.expose_secret(), &mut body);
    }
    body
}

/// As [`encode`] has each part.
pub(super) fn encode_part(text: &str, into: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b' ' => into.push(b'+'),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => into.push(byte),
            _ => {
                into.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
            }
        }
    }
}

/// Status, `Retry-After`, body.
type Received = (u16, Option<String>, SecretSlice<u8>);

async fn receive(request: reqwest::RequestBuilder) -> Result<Received, crate::BoxError> {
    let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.map(str::to_owned);
    let mut body = Zeroizing::new(Vec::with_capacity(16 << 10));
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let room = RawAnswer::LARGEST - body.len();
                body.extend(chunk.iter().take(room));
                if chunk.len() >= room {
                    break;
                }
            }
            Ok(None) => break,
            // Cut off after the last brace: nothing of it is missing, and what it holds may be there only once.
            Err(_) if is_whole(&body) => break,
            Err(err) => return Err(err.without_url().into()),
        }
    }
    Ok((status, retry_after, body.as_slice().to_vec().into()))
}

fn is_whole(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// Sends token requests from this process.
#[derive(Clone, Debug)]
pub struct HttpExchanger {
    http: Http,
}

impl HttpExchanger {
    /// Sends with `http`.
    #[must_use]
    pub fn new(http: Http) -> Self {
        Self { http }
    }
}

#[async_trait]
impl Exchanger for HttpExchanger {
    async fn exchange(&self, job: ExchangeJob) -> Exchanged {
        let call = Call::post(&job.request, job.limit);
        self.http.send(Call { send_before: Some(job.send_before), ..call }).await
    }

    /// What an earlier process began ended with it.
    async fn recover(&self, _: Ticket) -> Result<Option<Exchanged>> {
        Ok(None)
    }

    async fn settled(&self, _: Ticket) {}
}
