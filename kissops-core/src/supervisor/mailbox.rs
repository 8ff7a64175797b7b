//! The inbox of an instance's task. A queue and a wake-up, because a channel of tokio's keeps a block of 32 slots for
//! each of a thousand instances that get a message a day.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// An unbounded queue with one reader.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    /// `None` once it is closed.
    queue: Mutex<Option<VecDeque<T>>>,
    wake: Notify,
}

impl<T> Mailbox<T> {
    pub(super) fn new() -> Self {
        Self { queue: Mutex::new(Some(VecDeque::new())), wake: Notify::new() }
    }

    /// Puts a message at the end. A closed mailbox drops it, by which whoever waits for an answer is told.
    pub(super) fn send(&self, message: T) {
        // The message is dropped after the lock: its drop may wake somebody.
        let refused = match &mut *self.lock() {
            Some(queue) => {
                queue.push_back(message);
                None
            }
            None => Some(message),
        };
        drop(refused);
        self.wake.notify_one();
    }

    /// The oldest message, once there is one. Nothing is lost when the future is dropped.
    pub(super) async fn next(&self) -> T {
        loop {
            if let Some(message) = self.take() {
                return message;
            }
            self.wake.notified().await;
        }
    }

    /// How many messages wait.
    #[cfg(feature = "vault")]
    pub(super) fn waiting(&self) -> usize {
        self.lock().as_ref().map_or(0, VecDeque::len)
    }

    /// Drops what is there.
    pub(super) fn clear(&self) {
        let dropped = self.lock().as_mut().map(std::mem::take);
        drop(dropped);
    }

    /// Drops what is there and all that is still to come.
    pub(super) fn close(&self) {
        let dropped = self.lock().take();
        drop(dropped);
    }

    fn take(&self) -> Option<T> {
        let mut queue = self.lock();
        let queue = queue.as_mut()?;
        let message = queue.pop_front();
        if queue.is_empty() && queue.capacity() > 8 {
            queue.shrink_to_fit();
        }
        message
    }

    fn lock(&self) -> MutexGuard<'_, Option<VecDeque<T>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
