//! [`Providers`]: the providers that are configured now.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Profile, Provider};
use crate::{Error, Result};

/// The providers by name; replaced as a whole when the configuration is read again. Held as `Arc<Providers>`.
#[derive(Debug, Default)]
pub struct Providers {
    now: Mutex<Registered>,
}

#[derive(Clone, Debug, Default)]
struct Registered {
    by_name: Arc<BTreeMap<String, Arc<Provider>>>,
    version: u64,
}

impl Providers {
    /// These, by their names; of two with one name, the later.
    pub fn new(providers: impl IntoIterator<Item = Provider>) -> Self {
        let new = Self::default();
        new.replace(providers);
        new
    }

    /// Puts these in the place of all those before. What is under way goes on with those it began with.
    pub fn replace(&self, providers: impl IntoIterator<Item = impl Into<Arc<Provider>>>) {
        let providers = providers.into_iter().map(Into::<Arc<Provider>>::into);
        let by_name = providers.map(|p| (p.name().to_owned(), p)).collect();
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = Registered { by_name: Arc::new(by_name), version: now.version + 1 };
    }

    /// The provider of that name.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) if it is not configured; what to write is said then.
    pub fn get(&self, name: &str) -> Result<Arc<Provider>> {
        self.all().get(name).cloned().ok_or_else(|| {
            let more = if Profile::BUILTIN.contains(&name) { "" } else { " and token_url" };
            let what = format!(
                "provider `{name}` in the configuration: write [vault.provider.{name}] with client_id{more}"
            );
            Error::NotFound { what }
        })
    }

    /// All of them, by name, as they are now.
    #[must_use]
    pub fn all(&self) -> Arc<BTreeMap<String, Arc<Provider>>> {
        Arc::clone(&self.now().by_name)
    }

    /// Grows at each [`replace`](Self::replace): whatever was refused may be worth another try then.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.now().version
    }

    fn now(&self) -> Registered {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
