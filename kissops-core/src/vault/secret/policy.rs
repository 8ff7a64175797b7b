//! How old a secret may get, and when that is said.

use std::{fmt, time::Duration};

use crate::Timestamp;

const DAY: Duration = Duration::from_hours(24);

/// What a secret is: by this it gets its age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretKind {
    /// A bot's token: Discord, Telegram.
    BotToken,
    /// A webhook's address, which is a secret as a whole.
    WebhookUrl,
    /// A key of some API.
    ApiKey,
    /// A password of a database or an account.
    Password,
    /// A key that signs or seals something of ours.
    SigningKey,
    /// Anything else, by its own word.
    Other(String),
}

impl SecretKind {
    /// Those that have a name.
    pub const NAMED: [Self; 5] =
        [Self::BotToken, Self::WebhookUrl, Self::ApiKey, Self::Password, Self::SigningKey];

    /// The kind as a stable word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::BotToken => "bot_token",
            Self::WebhookUrl => "webhook_url",
            Self::ApiKey => "api_key",
            Self::Password => "password",
            Self::SigningKey => "signing_key",
            Self::Other(word) => word,
        }
    }

    /// The kind of that word.
    #[must_use]
    pub fn of(word: &str) -> Self {
        let named = Self::NAMED.into_iter().find(|kind| kind.as_str() == word);
        named.unwrap_or_else(|| Self::Other(word.to_owned()))
    }

    /// After how long one should be replaced if nothing else is said.
    #[must_use]
    pub fn max_age(&self) -> Duration {
        DAY * match self {
            Self::SigningKey => 90,
            Self::Password => 180,
            Self::BotToken | Self::WebhookUrl | Self::ApiKey | Self::Other(_) => 365,
        }
    }
}

impl fmt::Display for SecretKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something to be said about a secret's age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reminder {
    /// Two weeks are left.
    TwoWeeks,
    /// Three days are left.
    ThreeDays,
    /// It is due.
    Due,
}

impl Reminder {
    /// How long before the end the first one is.
    pub(super) const FIRST: Duration = Self::TwoWeeks.before();

    const fn before(self) -> Duration {
        match self {
            Self::TwoWeeks => Duration::from_hours(24 * 14),
            Self::ThreeDays => Duration::from_hours(24 * 3),
            Self::Due => Duration::ZERO,
        }
    }

    /// What is to be said at `now` of a secret that is due at `due_at`, if anything came up after `since`, when this was
    /// asked last. Of several the latest.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kissops_core::{Timestamp, vault::Reminder};
    /// let due: Timestamp = "2026-12-01T00:00:00Z".parse()?;
    /// let day = |n: u64| due.minus(Duration::from_secs(86_400 * n));
    /// assert_eq!(Reminder::between(due, day(16), day(15)), None);
    /// assert_eq!(Reminder::between(due, day(15), day(14)), Some(Reminder::TwoWeeks));
    /// assert_eq!(Reminder::between(due, day(14), day(13)), None);
    /// assert_eq!(Reminder::between(due, day(20), day(2)), Some(Reminder::ThreeDays));
    /// # Ok::<(), kissops_core::Error>(())
    /// ```
    #[must_use]
    pub fn between(due_at: Timestamp, since: Timestamp, now: Timestamp) -> Option<Self> {
        let came_up = |reminder: &Self| {
            let at = due_at.minus(reminder.before());
            since < at && at <= now
        };
        [Self::Due, Self::ThreeDays, Self::TwoWeeks].into_iter().find(came_up)
    }
}
