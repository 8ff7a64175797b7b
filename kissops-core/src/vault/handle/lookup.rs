//! One reading of a grant for all who ask for it at the same moment: a token that has expired is asked for by everybody.
//!
//! Nobody gets what was read before they asked: whoever comes after a reading has begun waits for the next one.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::super::refresh::flight::Refusal;
use crate::{
    Result,
    store::{GrantKey, GrantRecord, Store},
};

type Found = Result<Option<GrantRecord>, Refusal>;
type Replies = Vec<oneshot::Sender<Found>>;

/// Who waits for which reading that has not begun.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    waiting: Mutex<HashMap<GrantKey, Replies>>,
}

/// The right to begin a reading. Given up, it is another's: those who wait ask again.
struct Turn<'a> {
    lookups: &'a Lookups,
    key: &'a GrantKey,
    has_begun: bool,
}

impl Turn<'_> {
    /// From here on whoever comes waits for another reading.
    fn begin(mut self) -> Replies {
        self.has_begun = true;
        self.lookups.lock().remove(self.key).unwrap_or_default()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.has_begun {
            self.lookups.lock().remove(self.key);
        }
    }
}

impl Lookups {
    /// The grant as it is now.
    pub(super) async fn find(
        &self,
        store: &dyn Store,
        key: &GrantKey,
    ) -> Result<Option<GrantRecord>> {
        loop {
            if let Some(answer) = self.join(key) {
                // It comes to nothing where the one who reads is gone.
                let Ok(found) = answer.await else { continue };
                return found.map_err(Into::into);
            }
            let turn = Turn { lookups: self, key, has_begun: false };
            // Those who ask at the same moment are about to run.
            tokio::task::yield_now().await;
            let replies = turn.begin();
            let found = store.grant(key).await;
            for reply in replies {
                let answer = match &found {
                    Ok(record) => Ok(record.clone()),
                    Err(err) => Err(Refusal::from(err)),
                };
                // Whoever asked may be gone.
                let _ = reply.send(answer);
            }
            return found;
        }
    }

    /// Waits for a reading that is about to begin; `None`: there is none, and the caller's is to be it.
    fn join(&self, key: &GrantKey) -> Option<oneshot::Receiver<Found>> {
        let mut waiting = self.lock();
        if let Some(replies) = waiting.get_mut(key) {
            let (reply, answer) = oneshot::channel();
            replies.push(reply);
            return Some(answer);
        }
        waiting.insert(key.clone(), Vec::new());
        None
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<GrantKey, Replies>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[cfg(feature = "sqlite")]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::store::sqlite::SqliteStore;

    #[tokio::test]
    async fn whoever_goes_away_leaves_the_reading_to_the_others() {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        let lookups = Arc::new(Lookups::default());
        let key: GrantKey = "twitch/a".parse().unwrap();
        let find = || {
            let (store, lookups, key) = (Arc::clone(&store), Arc::clone(&lookups), key.clone());
            tokio::spawn(async move { lookups.find(&*store, &key).await })
        };
        let asking: Vec<_> = (0..10).map(|_| find()).collect();
        tokio::task::yield_now().await;
        asking[0].abort();
        for (at, asked) in asking.into_iter().enumerate().skip(1) {
            let found = tokio::time::timeout(Duration::from_secs(30), asked).await;
            assert!(matches!(found, Ok(Ok(Ok(None)))), "{at}: {found:?}");
        }
        assert!(lookups.lock().is_empty());
    }
}
