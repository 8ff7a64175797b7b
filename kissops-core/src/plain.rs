//! HTTP without TLS: to bots and sockets of this machine.

/// A client that speaks plain HTTP and uses no proxy.
pub(crate) fn client() -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder().no_proxy();
    // A build with the vault has rustls in it, and no provider of cryptography for the whole process: that is the host
    // program's to choose. Without one of its own even a client that never uses TLS could not be made.
    #[cfg(feature = "vault")]
    let builder = match no_tls() {
        Ok(config) => builder.tls_backend_preconfigured(config),
        Err(_) => builder,
    };
    builder
}

/// Trusts nobody.
#[cfg(feature = "vault")]
fn no_tls() -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth())
}
