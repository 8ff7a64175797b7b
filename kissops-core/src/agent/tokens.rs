//! What [`Agent`] asks and says on the instance's own socket.

use std::time::Duration;

use super::{Agent, BotToken};
use crate::{Result, limit::Priority};

/// # Errors
/// Of each: [`Unavailable`](crate::Error::Unavailable) and [`Timeout`](crate::Error::Timeout) if the supervisor does not
/// answer (one that is being restarted is waited for up to ten seconds), [`Denied`](crate::Error::Denied) for a process that
/// is none of the instance's.
///
/// # Cancel safety
/// Nothing is lost when one is dropped: a token is asked for again.
impl Agent {
    /// The access token of an account, refreshed before if it has expired. Ask whenever one is needed: the supervisor has it
    /// at hand.
    ///
    /// # Errors
    /// Further: [`NotFound`](crate::Error::NotFound) for one that is not among the instance's `tokens`,
    /// [`WrongState`](crate::Error::WrongState) of state `needs_reauth` where only the account's owner can help, and where
    /// there is no `KISSOPS_SOCKET`.
    pub async fn token(&self, provider: &str, account: &str) -> Result<BotToken> {
        self.client.token(provider, account).await
    }

    /// The token after that of `generation`, as soon as there is one; `None` if there is none within `wait` (5 minutes at
    /// most).
    ///
    /// # Errors
    /// As [`token`](Self::token).
    pub async fn token_after(
        &self,
        provider: &str,
        account: &str,
        generation: u64,
        wait: Duration,
    ) -> Result<Option<BotToken>> {
        self.client.token_after(provider, account, generation, wait).await
    }

    /// An API has answered 401 to the token of `generation`: gives the one to go on with.
    ///
    /// # Errors
    /// As [`token`](Self::token).
    pub async fn token_invalid(
        &self,
        provider: &str,
        account: &str,
        generation: u64,
    ) -> Result<BotToken> {
        self.client.invalid(provider, account, generation).await
    }

    /// The bot is alive: for `live = { watchdog = … }` and `live = { heartbeat = … }`. Does nothing without a supervisor.
    ///
    /// # Errors
    /// Those named above.
    pub async fn heartbeat(&self) -> Result<()> {
        self.client.say("/v1/heartbeat", b"").await
    }

    /// What the bot measures, as `OpenMetrics` text, in the place of what it said before. Does nothing without a supervisor.
    ///
    /// # Errors
    /// Those named above; [`InvalidConfig`](crate::Error::InvalidConfig) for what is no such text, or too much of it.
    pub async fn metrics(&self, text: &str) -> Result<()> {
        self.client.say("/v1/metrics", text.as_bytes()).await
    }

    /// Waits, up to `wait` (5 minutes at most), until something may be sent to a provider's API: all bots share one limit for
    /// each provider and key, which is whatever the provider counts by. `false`: not within that time. Without a supervisor
    /// it may be sent at once.
    ///
    /// # Errors
    /// Those named above; [`InvalidConfig`](crate::Error::InvalidConfig) for a cost that the limit never allows.
    pub async fn limit(
        &self,
        provider: &str,
        key: &str,
        cost: u32,
        priority: Priority,
        wait: Duration,
    ) -> Result<bool> {
        self.client.limit(provider, key, cost, priority, wait).await
    }

    /// Tells all bots what the API has answered to something: its status, and its headers as far as they are about limits.
    ///
    /// # Errors
    /// Those named above.
    pub async fn answered(
        &self,
        provider: &str,
        key: &str,
        status: u16,
        headers: &[(&str, &str)],
    ) -> Result<()> {
        self.client.answered(provider, key, status, headers).await
    }

    /// A user uses a command. `None`: it is allowed, and a cool-down of `length` begins; else how long the last one still
    /// lasts. Without a supervisor everything is allowed.
    ///
    /// # Errors
    /// Those named above.
    pub async fn cooldown(
        &self,
        user: &str,
        command: &str,
        length: Duration,
    ) -> Result<Option<Duration>> {
        self.client.cooldown(user, command, length).await
    }

    /// Asks for a new process in the place of this one: it is stopped like any other, then started. Does nothing without a
    /// supervisor.
    ///
    /// # Errors
    /// Those named above; [`WrongState`](crate::Error::WrongState) for an instance that is never restarted.
    pub async fn request_restart(&self, reason: &str) -> Result<()> {
        let body = serde_json::json!({ "reason": reason }).to_string();
        self.client.say("/v1/restart", body.as_bytes()).await
    }
}
