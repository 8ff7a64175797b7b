//! Who waits for the next pair, and the access tokens that are open in memory.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use secrecy::SecretString;
use tokio::sync::watch;

use crate::store::{Generation, GrantId};

/// Wakes those who wait for the next pair of a grant.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    senders: Mutex<HashMap<GrantId, watch::Sender<Generation>>>,
}

impl Watchers {
    /// Changes with each new pair that this process sees.
    pub(crate) fn subscribe(&self, id: GrantId) -> watch::Receiver<Generation> {
        let mut senders = self.lock();
        if senders.len() >= 64 && senders.len().is_power_of_two() {
            senders.retain(|_, sender| sender.receiver_count() > 0);
        }
        senders.entry(id).or_insert_with(|| watch::channel(Generation(0)).0).subscribe()
    }

    pub(crate) fn wake(&self, id: GrantId, generation: Generation) {
        let mut senders = self.lock();
        if let Some(sender) = senders.get(&id)
            && sender.send(generation).is_err()
        {
            senders.remove(&id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<GrantId, watch::Sender<Generation>>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So many access tokens are kept open. They are wiped when they are dropped.
const OPEN: usize = 4096;

/// Access tokens that were opened, by grant: what is asked for every second is not opened every second.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    tokens: Mutex<HashMap<GrantId, Token>>,
    /// Counts the pairs that were committed here.
    commits: AtomicU64,
}

#[derive(Debug)]
struct Token {
    generation: Generation,
    text: SecretString,
    /// Which of the commits it came by; 0: it was read from the store.
    commit: u64,
}

impl Opened {
    pub(crate) fn get(&self, id: GrantId, generation: Generation) -> Option<SecretString> {
        let tokens = self.lock();
        tokens
            .get(&id)
            .filter(|token| token.generation == generation)
            .map(|token| token.text.clone())
    }

    /// It was read from the store.
    pub(crate) fn put(&self, id: GrantId, generation: Generation, text: SecretString) {
        self.keep(id, Token { generation, text, commit: 0 });
    }

    /// It was committed just now.
    pub(crate) fn commit(&self, id: GrantId, generation: Generation, text: SecretString) {
        let commit = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        self.keep(id, Token { generation, text, commit });
    }

    /// The latest commit, to be compared with later.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// Whether that pair came after the commit that was the latest then.
    pub(crate) fn is_since(&self, id: GrantId, generation: Generation, commits: u64) -> bool {
        self.lock()
            .get(&id)
            .is_some_and(|token| token.generation == generation && token.commit > commits)
    }

    pub(crate) fn forget(&self, id: GrantId) {
        self.lock().remove(&id);
    }

    fn keep(&self, id: GrantId, token: Token) {
        let mut tokens = self.lock();
        if tokens.len() >= OPEN && !tokens.contains_key(&id) {
            // Whichever: each can be opened again.
            let any = tokens.keys().next().copied();
            any.map(|any| tokens.remove(&any));
        }
        tokens.insert(id, token);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<GrantId, Token>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
