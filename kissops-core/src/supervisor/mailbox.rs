//! The inbox of an instance's task. A queue and a wake-up, because a channel of tokio's keeps a block of 32 slots for
//! each of a thousand instances that get a message a day.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

/// An unbounded queue with one reader.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    queue: Mutex<VecDeque<T>>,
    wake: Notify,
}

impl<T> Mailbox<T> {
    pub(super) fn new() -> Self {
        Self { queue: Mutex::new(VecDeque::new()), wake: Notify::new() }
    }

    pub(super) fn send(&self, message: T) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(message);
        self.wake.notify_one();
    }

    /// The oldest message, once there is one. Nothing is lost when the future is dropped.
    pub(super) async fn next(&self) -> T {
        loop {
            if let Some(message) = self.try_next() {
                return message;
            }
            self.wake.notified().await;
        }
    }

    pub(super) fn try_next(&self) -> Option<T> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let message = queue.pop_front();
        if queue.is_empty() && queue.capacity() > 8 {
            queue.shrink_to_fit();
        }
        message
    }
}
