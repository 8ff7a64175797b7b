//! TLS by rustls and ring, given to the client directly: a host program's own choice stays as it is.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::{Error, Result};

/// The authorities that the system trusts, and why there are none if so.
pub(super) fn system() -> Result<(ClientConfig, Option<String>)> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    let why = roots.is_empty().then(|| {
        let first = found.errors.first().map_or_else(String::new, |err| format!(" ({err})"));
        format!("install ca-certificates, or name a file of them in SSL_CERT_FILE{first}")
    });
    Ok((trusting(roots)?, why))
}

pub(super) fn trusting(roots: RootCertStore) -> Result<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::unavailable("TLS"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
