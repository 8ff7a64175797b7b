//! Authorization codes with PKCE, RFC 7636 and 8252: the browser comes back to a port of this machine.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;

use super::{Authorizer, callback, random_text};
use crate::{
    Error, Result,
    store::GrantFlow,
    vault::{NewTokens, provider::joined},
};

/// An authorization that waits for a browser. Good for one use.
pub struct BrowserFlow {
    /// What to open in a browser where the account's owner is logged in. Not secret, but good for this one flow only.
    pub authorize_url: String,
    /// Where the browser is sent back to.
    pub redirect_url: String,
    listener: TcpListener,
    path: String,
    state: SecretString,
    verifier: SecretString,
    scopes: BTreeSet<String>,
}

impl fmt::Debug for BrowserFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrowserFlow")
            .field("redirect_url", &self.redirect_url)
            .finish_non_exhaustive()
    }
}

impl Authorizer {
    /// Begins an authorization in a browser. No scopes: those of the profile.
    ///
    /// # Errors
    /// - [`WrongState`](Error::WrongState) if the provider has no page for it.
    /// - [`Io`](Error::Io) if the port to come back to is taken.
    pub async fn browser(&self, scopes: &BTreeSet<String>) -> Result<BrowserFlow> {
        let profile = self.provider.profile();
        let page = profile.authorize_url.as_deref().ok_or_else(|| Error::WrongState {
            what: format!("provider `{}`", self.provider.name()),
            state: "without a page to authorize at".into(),
            help: "set authorize_url, or use a device code".into(),
        })?;
        let key = |key: &str| format!("vault.provider.{}.{key}", self.provider.name());
        let no_url = |_| Error::invalid(key("authorize_url"), "is not a URL");
        let mut url = Url::parse(page).map_err(no_url)?;
        let (listener, back) = listen(profile.redirect_url.as_deref()).await?;
        let scopes = self.scopes(scopes);
        let (state, verifier) = (random_text()?, random_text()?);
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose_secret()));
        {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(&profile.authorize_params);
            query.append_pair("response_type", "code");
            query.append_pair("client_id", self.provider.client_id());
            query.append_pair("redirect_uri", back.as_str());
            if !scopes.is_empty() {
                query.append_pair("scope", &joined(&scopes));
            }
            query.append_pair("state", state.expose_secret());
            query.append_pair("code_challenge", &challenge);
            query.append_pair("code_challenge_method", "S256");
        }
        let path = back.path().to_owned();
        let (authorize_url, redirect_url) = (url.into(), back.into());
        Ok(BrowserFlow { authorize_url, redirect_url, listener, path, state, verifier, scopes })
    }

    /// Waits, ten minutes at most, until the browser comes back, and takes the tokens.
    ///
    /// # Errors
    /// - [`Denied`](Error::Denied) if the account's owner refuses, or it is another account than `account`.
    /// - [`Timeout`](Error::Timeout) if nobody comes.
    /// - [`Unavailable`](Error::Unavailable) if the provider does not give the tokens.
    ///
    /// # Cancel safety
    /// A dropped call may have taken the tokens; then it is to be begun again.
    pub async fn wait_for_browser(&self, flow: BrowserFlow, account: &str) -> Result<NewTokens> {
        let visit = callback::wait(&flow.listener, &flow.path, &flow.state).await?;
        self.redeem(flow, visit, account).await
    }

    /// The same with the address that the browser was sent to, for a browser on another machine, where it cannot arrive.
    ///
    /// # Errors
    /// As [`wait_for_browser`](Self::wait_for_browser); also [`Denied`](Error::Denied) if the address is not of this flow.
    pub async fn redeem_address(
        &self,
        flow: BrowserFlow,
        address: &SecretString,
        account: &str,
    ) -> Result<NewTokens> {
        let visit = Url::parse(address.expose_secret().trim())
            .ok()
            .and_then(|url| callback::read(&url, &flow.path, &flow.state));
        let visit = visit.ok_or_else(|| Error::Denied {
            what: "the address is not of this authorization".into(),
            help: format!(
                "it begins with {} and belongs to the page just opened",
                flow.redirect_url
            ),
        })?;
        self.redeem(flow, visit, account).await
    }

    async fn redeem(
        &self,
        flow: BrowserFlow,
        visit: callback::Visit,
        account: &str,
    ) -> Result<NewTokens> {
        let code = match visit {
            callback::Visit::Code(code) => code,
            callback::Visit::Refused(word) => {
                return Err(Error::Denied {
                    what: format!("{} has not authorized it: {word}", self.provider.name()),
                    help: "begin it again if that was a mistake".into(),
                });
            }
        };
        let request = self.provider.token_request(vec![
            ("grant_type".to_owned(), "authorization_code".into()),
            ("code".to_owned(), code),
            ("redirect_uri".to_owned(), flow.redirect_url.into()),
            ("code_verifier".to_owned(), flow.verifier),
        ]);
        let answer = self.send(&request).await?;
        self.owned(account, GrantFlow::AuthorizationCode, &flow.scopes, &answer).await
    }
}

/// A port of this machine and its address: the one that is registered at the provider, or any that is free.
async fn listen(registered: Option<&str>) -> Result<(TcpListener, Url)> {
    let key = "redirect_url";
    let mut url = Url::parse(registered.unwrap_or("http://127.0.0.1:0/callback"))
        .map_err(|_| Error::invalid(key, "is not a URL"))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let host: IpAddr = host.parse().unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let port = url.port().unwrap_or(80);
    let listener = TcpListener::bind((host, port))
        .await
        .map_err(Error::io(format!("listen at {host}:{port}, where the browser comes back to")))?;
    let port = listener.local_addr().map_err(Error::io("see which port was given"))?.port();
    if registered.is_none() {
        url.set_port(Some(port)).map_err(|()| Error::invalid(key, "cannot have a port"))?;
    }
    Ok((listener, url))
}
