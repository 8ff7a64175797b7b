//! Cool-downs: how often one user may use one command of a bot.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// When each user may use each command of each bot again. Kept in memory: a restart forgives.
#[derive(Debug, Default)]
pub struct Cooldowns {
    until: Mutex<HashMap<(String, String, String), Instant>>,
}

impl Cooldowns {
    /// So many are kept at most. Beyond it those that are over are dropped, and then the earliest to end: forgiving a
    /// cool-down early is the least harm.
    pub const MOST: usize = 100_000;

    /// Nobody has to wait.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The user uses the command: allowed unless the cool-down of an earlier use lasts, and then begins one of `length`.
    ///
    /// # Errors
    /// How long it still lasts.
    pub fn begin(
        &self,
        bot: &str,
        user: &str,
        command: &str,
        length: Duration,
    ) -> Result<(), Duration> {
        let now = Instant::now();
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (bot.to_owned(), user.to_owned(), command.to_owned());
        if let Some(end) = until.get(&key)
            && *end > now
        {
            return Err(*end - now);
        }
        if until.len() >= Self::MOST {
            until.retain(|_, end| *end > now);
        }
        if until.len() >= Self::MOST {
            let mut ends: Vec<Instant> = until.values().copied().collect();
            let (_, tenth, _) = ends.select_nth_unstable(Self::MOST / 10);
            let tenth = *tenth;
            until.retain(|_, end| *end > tenth);
        }
        // Longer ones than the clock can hold are a day.
        let end = now.checked_add(length).unwrap_or(now + Duration::from_hours(24));
        until.insert(key, end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn one_user_waits_and_another_does_not() {
        let cooldowns = Cooldowns::new();
        assert_eq!(cooldowns.begin("bot", "ada", "!joke", MINUTE), Ok(()));
        assert_eq!(cooldowns.begin("bot", "ada", "!joke", MINUTE), Err(MINUTE));
        for (bot, user, command) in
            [("bot", "bob", "!joke"), ("bot", "ada", "!dice"), ("bot2", "ada", "!joke")]
        {
            assert_eq!(cooldowns.begin(bot, user, command, MINUTE), Ok(()));
        }
        tokio::time::advance(MINUTE).await;
        assert_eq!(cooldowns.begin("bot", "ada", "!joke", Duration::MAX), Ok(()));
        tokio::time::advance(MINUTE).await;
        assert!(cooldowns.begin("bot", "ada", "!joke", MINUTE).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_users_is_bounded() {
        let cooldowns = Cooldowns::new();
        for n in 0..Cooldowns::MOST + 5 {
            let length = MINUTE + Duration::from_millis(n as u64);
            assert_eq!(cooldowns.begin("bot", &n.to_string(), "!joke", length), Ok(()));
        }
        assert!(cooldowns.until.lock().unwrap().len() <= Cooldowns::MOST);
        assert!(cooldowns.begin("bot", &Cooldowns::MOST.to_string(), "!joke", MINUTE).is_err());
    }
}
