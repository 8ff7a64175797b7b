//! What the refresher asks of a provider: the seam that lets hours of outages pass in a test.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;

use crate::{
    Result,
    vault::{
        Answer, Http, Probed, Provider, ProviderLimits, Providers, RawAnswer, RefreshWindow,
        RotationClass, TokenRequest, Undecidable,
    },
};

/// A provider as the refresher uses it; see [`Provider`].
#[async_trait]
pub(crate) trait Upstream: fmt::Debug + Send + Sync {
    fn client_id(&self) -> &str;
    fn rotation(&self) -> RotationClass;
    fn limits(&self) -> ProviderLimits;
    fn window(&self) -> RefreshWindow;
    fn undecidable(&self) -> Undecidable;
    fn validate_every(&self) -> Option<Duration>;
    fn refresh_request(&self, refresh: &SecretString) -> TokenRequest;
    fn client_credentials_request(&self, scopes: &BTreeSet<String>) -> TokenRequest;
    fn read(&self, answer: &RawAnswer) -> Answer;
    fn can_probe(&self) -> bool;
    async fn probe(&self, access: &SecretString) -> Probed;
    async fn revoke(&self, access: &SecretString, refresh: Option<&SecretString>) -> Result<()>;
}

/// The providers that there are, by name. They may be others after a reload.
pub(crate) trait Upstreams: fmt::Debug + Send + Sync {
    fn get(&self, name: &str) -> Option<Arc<dyn Upstream>>;

    /// Grows with each reload.
    fn version(&self) -> u64;
}

/// The providers of the configuration, over HTTP.
#[derive(Debug)]
pub(crate) struct Configured {
    pub(crate) providers: Arc<Providers>,
    pub(crate) http: Http,
}

impl Upstreams for Configured {
    fn get(&self, name: &str) -> Option<Arc<dyn Upstream>> {
        let provider = Arc::clone(self.providers.all().get(name)?);
        Some(Arc::new(Reached { provider, http: self.http.clone() }))
    }

    fn version(&self) -> u64 {
        self.providers.version()
    }
}

#[derive(Debug)]
struct Reached {
    provider: Arc<Provider>,
    http: Http,
}

#[async_trait]
impl Upstream for Reached {
    fn client_id(&self) -> &str {
        self.provider.client_id()
    }

    fn rotation(&self) -> RotationClass {
        self.provider.rotation()
    }

    fn limits(&self) -> ProviderLimits {
        self.provider.limits()
    }

    fn window(&self) -> RefreshWindow {
        self.provider.refresh_window()
    }

    fn undecidable(&self) -> Undecidable {
        self.provider.undecidable()
    }

    fn validate_every(&self) -> Option<Duration> {
        self.provider.validate_every()
    }

    fn refresh_request(&self, refresh: &SecretString) -> TokenRequest {
        self.provider.refresh_request(refresh)
    }

    fn client_credentials_request(&self, scopes: &BTreeSet<String>) -> TokenRequest {
        self.provider.client_credentials_request(scopes)
    }

    fn read(&self, answer: &RawAnswer) -> Answer {
        self.provider.read(answer)
    }

    fn can_probe(&self) -> bool {
        self.provider.can_probe()
    }

    async fn probe(&self, access: &SecretString) -> Probed {
        self.provider.probe(&self.http, access).await
    }

    async fn revoke(&self, access: &SecretString, refresh: Option<&SecretString>) -> Result<()> {
        self.provider.revoke(&self.http, access, refresh).await
    }
}
