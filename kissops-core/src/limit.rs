//! Rate limits shared by all that use one provider with one key (VLT-15).
//!
//! A provider counts requests of a client, a user or a token, whichever process sends them. So a [`Limiter`] has one
//! [`Bucket`] for each provider and key, hands out permits by [`Priority`], and believes what answers say about the limit
//! more than its profile.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use kissops_core::limit::{Limiter, Priority, Profile};
//! let limiter = Limiter::new();
//! limiter.set_profile("twitch", Profile::twitch());
//! let bucket = limiter.bucket("twitch", "el_serda");
//! bucket.acquire(1, Priority::Moderation).await?;
//! // … send the request; then tell what the answer's headers said:
//! bucket.learn(&[("ratelimit-limit", "800"), ("ratelimit-remaining", "42")]);
//! # Ok::<(), kissops_core::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

mod bucket;
mod cooldown;
mod headers;

pub use bucket::{Bucket, BucketStatus};
pub use cooldown::Cooldowns;

/// Who goes first when there is not enough for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// What keeps the bot alive: refreshing, validating.
    Vital,
    /// What keeps a channel in order.
    Moderation,
    /// All else. It leaves a fifth of the bucket to the others.
    Chatter,
}

impl Priority {
    /// All of them, most urgent first.
    pub const ALL: [Self; 3] = [Self::Vital, Self::Moderation, Self::Chatter];

    /// As a word: `vital`, `moderation`, `chatter`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vital => "vital",
            Self::Moderation => "moderation",
            Self::Chatter => "chatter",
        }
    }

    /// The priority of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }

    /// The share of a bucket that it leaves to those before it, in tenths.
    pub(crate) fn leaves(self) -> f64 {
        match self {
            Self::Vital => 0.0,
            Self::Moderation => 0.05,
            Self::Chatter => 0.2,
        }
    }
}

/// What a provider allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// So many points …
    pub amount: f64,
    /// … in so long.
    pub per: Duration,
    /// So many answers that mark a request as invalid (401, 403, 429) in ten minutes: beyond it the provider bans the
    /// address. `None`: it does not count them.
    pub invalid_per_10_min: Option<u32>,
}

impl Profile {
    /// Twitch's Helix: 800 points a minute for a client and user (dev.twitch.tv/docs/api/guide).
    #[must_use]
    pub fn twitch() -> Self {
        Self { amount: 800.0, per: Duration::from_mins(1), invalid_per_10_min: None }
    }

    /// Discord: 50 requests a second for a bot; its address is banned for a while after 10,000 invalid ones in ten
    /// minutes, so we stop at 8,000 (docs.discord.com/developers/topics/rate-limits).
    #[must_use]
    pub fn discord() -> Self {
        Self { amount: 50.0, per: Duration::from_secs(1), invalid_per_10_min: Some(8_000) }
    }

    /// Reddit: 100 a minute for a client, counted over ten minutes.
    #[must_use]
    pub fn reddit() -> Self {
        Self { amount: 1_000.0, per: Duration::from_mins(10), invalid_per_10_min: None }
    }

    /// One a second, for whoever says nothing.
    #[must_use]
    pub fn one_a_second() -> Self {
        Self { amount: 1.0, per: Duration::from_secs(1), invalid_per_10_min: None }
    }

    /// The profile that goes with a provider's name; [`one_a_second`](Self::one_a_second) for names that are not known.
    #[must_use]
    pub fn of(provider: &str) -> Self {
        match provider {
            "twitch" => Self::twitch(),
            "discord" => Self::discord(),
            "reddit" => Self::reddit(),
            _ => Self::one_a_second(),
        }
    }
}

/// All buckets. Shared as `Arc`, or by one for each process.
#[derive(Debug, Default)]
pub struct Limiter {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    profiles: HashMap<String, Profile>,
    buckets: HashMap<(String, String), Arc<Bucket>>,
}

impl Limiter {
    /// More keys of all providers together than this are not kept: the idle ones are dropped first.
    pub const MOST_KEYS: usize = 10_000;

    /// No bucket yet; each provider as [`Profile::of`] its name.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what a provider allows. Buckets that are there keep what they have learned.
    pub fn set_profile(&self, provider: &str, profile: Profile) {
        self.lock().profiles.insert(provider.to_owned(), profile);
    }

    /// The bucket of a provider's key: whatever the provider counts by, a user or a client.
    #[must_use]
    pub fn bucket(&self, provider: &str, key: &str) -> Arc<Bucket> {
        let mut inner = self.lock();
        let name = (provider.to_owned(), key.to_owned());
        if let Some(bucket) = inner.buckets.get(&name) {
            return Arc::clone(bucket);
        }
        if inner.buckets.len() >= Self::MOST_KEYS {
            // A full bucket that nobody holds is the same as a new one.
            inner.buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_full());
        }
        let profile = inner.profiles.get(provider).copied().unwrap_or(Profile::of(provider));
        let bucket = Arc::new(Bucket::new(&profile));
        if inner.buckets.len() < Self::MOST_KEYS {
            inner.buckets.insert(name, Arc::clone(&bucket));
        }
        bucket
    }

    /// What there is, by provider and key.
    #[must_use]
    pub fn status(&self) -> Vec<(String, String, BucketStatus)> {
        let inner = self.lock();
        let mut all: Vec<_> = inner
            .buckets
            .iter()
            .map(|((provider, key), bucket)| (provider.clone(), key.clone(), bucket.status()))
            .collect();
        all.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
        all
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
