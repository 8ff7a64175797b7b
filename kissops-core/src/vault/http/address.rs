//! Where a request may go, and what `localhost` is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use crate::Error;

/// Why a URL is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SafeUrl {
    /// It cannot be read, or is neither http nor https.
    NoUrl,
    /// It holds a user, a password or a fragment.
    Secret,
    /// It would go to another machine in clear.
    Clear,
}

impl SafeUrl {
    /// The rule that is broken.
    pub(crate) fn rule(self) -> &'static str {
        match self {
            Self::NoUrl => "is not an https URL",
            Self::Secret => "may not hold a user, a password or a fragment",
            Self::Clear => "would send secrets in clear: use https, or set insecure = true",
        }
    }

    pub(crate) fn into_error(self, key: &str) -> Error {
        Error::invalid(key, self.rule())
    }
}

/// `text` as a URL that secrets may be sent to: https, or http on this machine, or http by `insecure`.
pub(crate) fn safe_url(text: &str, insecure: bool) -> Result<Url, SafeUrl> {
    let url = Url::parse(text).map_err(|_| SafeUrl::NoUrl)?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(SafeUrl::NoUrl)?;
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(SafeUrl::Secret);
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if insecure || is_loopback(host) => Ok(url),
        "http" => Err(SafeUrl::Clear),
        _ => Err(SafeUrl::NoUrl),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().map_or_else(|_| is_localhost(host), |ip| ip.is_loopback())
}

/// Names that RFC 6761 keeps for this machine.
fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// The system's resolver, but for [`is_localhost`]: what may be sent there in clear must not go elsewhere.
#[derive(Debug)]
pub(super) struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = if is_localhost(name.as_str()) {
                let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                both.map(|ip| SocketAddr::new(ip, 0)).into()
            } else {
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect()
            };
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlt_5_clear_text_stays_on_this_machine() {
        for good in [
            "https://id.twitch.tv/oauth2/token",
            "http://127.0.0.1:8080/token",
            "http://127.8.9.1/token",
            "http://[::1]:1/token",
            "http://localhost/token",
            "http://twitch.localhost:9000/token",
            "http://LOCALHOST./token",
        ] {
            assert!(safe_url(good, false).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("http://id.example.org/token", SafeUrl::Clear),
            ("http://localhost.example.org/token", SafeUrl::Clear),
            ("http://notlocalhost/token", SafeUrl::Clear),
            ("http://10.0.0.1/token", SafeUrl::Clear),
            ("http://0.0.0.0/token", SafeUrl::Clear),
            ("http://[::2]/token", SafeUrl::Clear),
            ("ftp://localhost/token", SafeUrl::NoUrl),
            ("id.twitch.tv/token", SafeUrl::NoUrl),
            ("https:///", SafeUrl::NoUrl),
            ("", SafeUrl::NoUrl),
            ("https://me:secret@id.example.org/token", SafeUrl::Secret),
            ("https://me@id.example.org/token", SafeUrl::Secret),
            ("https://id.example.org/token#x", SafeUrl::Secret),
        ] {
            assert_eq!(safe_url(bad, false), Err(why), "{bad}");
        }
        assert!(safe_url("http://10.0.0.1/token", true).is_ok());
        assert_eq!(safe_url("http://a:b@10.0.0.1/token", true), Err(SafeUrl::Secret));
    }
}
