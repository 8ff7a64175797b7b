//! What the refresher asks of a provider: the seam that lets hours of outages pass in a test.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;

use crate::{
    Result, Timestamp,
    vault::{RawAnswer, TokenRequest, TokenSet},
};

/// What becomes of a refresh token that was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RotationClass {
    /// It stays good.
    Reusable,
    /// It may be replaced.
    Rotating,
    /// It is taken once; a second time may cost the grant.
    OneTime,
}

/// How much a provider is asked at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProviderLimits {
    /// Most requests at once.
    pub concurrency: usize,
    /// Most requests a second.
    pub per_second: Option<f64>,
    /// The longest that an exchange may take.
    pub exchange_limit: Duration,
    /// How long the provider may still carry out what it did not answer.
    pub settle: Duration,
}

/// What an answer says.
#[derive(Debug)]
pub enum Answer {
    /// New tokens.
    Tokens(TokenSet),
    /// Refused for now.
    Retry {
        /// How long the provider asks to be left alone.
        after: Option<Duration>,
        /// For people.
        detail: String,
    },
    /// It was sent, and what came does not say what became of it.
    Unclear {
        /// For people.
        detail: String,
    },
    /// Refused for good.
    Terminal {
        /// For people.
        detail: String,
    },
    /// The client is not known, or not its secret.
    Misconfigured {
        /// For people.
        detail: String,
    },
}

/// What a provider says of an access token.
#[derive(Clone, Debug)]
pub enum Probed {
    /// It is good.
    Good {
        /// Until when.
        expires_at: Option<Timestamp>,
        /// What it allows.
        scopes: Option<BTreeSet<String>>,
        /// Whose it is.
        account: Option<String>,
    },
    /// It is not good any more.
    Dead {
        /// For people.
        detail: String,
    },
    /// It did not say.
    Unknown {
        /// For people.
        detail: String,
    },
}

/// A provider as the refresher uses it.
#[async_trait]
pub(crate) trait Upstream: fmt::Debug + Send + Sync {
    fn client_id(&self) -> &str;
    fn rotation(&self) -> RotationClass;
    fn limits(&self) -> ProviderLimits;
    fn refresh_request(&self, refresh: &SecretString) -> TokenRequest;
    fn client_credentials_request(&self, scopes: &BTreeSet<String>) -> TokenRequest;
    fn read(&self, answer: &RawAnswer) -> Answer;
    fn can_probe(&self) -> bool;
    async fn probe(&self, access: &SecretString) -> Probed;
    async fn revoke(
        &self,
        access: Option<&SecretString>,
        refresh: Option<&SecretString>,
    ) -> Result<()>;
    fn validate_every(&self) -> Option<Duration>;
}

/// The providers that there are, by name. They may be others after a reload.
pub(crate) trait Upstreams: fmt::Debug + Send + Sync {
    fn get(&self, name: &str) -> Option<Arc<dyn Upstream>>;
}
