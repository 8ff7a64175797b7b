//! One bucket: points that come back with time, waits in order of priority, and what answers have said.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{Priority, Profile, headers};
use crate::{Error, Result, clock};

/// Invalid answers are counted in steps of this long.
const STEP: Duration = Duration::from_secs(10);
/// And over this long.
const WINDOW: Duration = Duration::from_mins(10);

/// A bucket of points. See [`Limiter::bucket`](super::Limiter::bucket).
#[derive(Debug)]
pub struct Bucket {
    state: Mutex<State>,
    /// Whoever is at the head of a priority's queue holds its turn; the others wait for it in the order in which they came.
    turns: [tokio::sync::Mutex<()>; 3],
    waiting: [AtomicUsize; 3],
    changed: Notify,
}

#[derive(Debug)]
struct State {
    amount: f64,
    per: Duration,
    points: f64,
    /// When `points` was right.
    at: Instant,
    /// Nothing goes out before.
    blocked_until: Option<Instant>,
    invalid_limit: Option<u32>,
    /// How many invalid answers there were, by steps.
    invalid: VecDeque<(Instant, u32)>,
    waits: u64,
    waited: Duration,
}

/// How a bucket is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BucketStatus {
    /// Points that are there.
    pub points: f64,
    /// Points when it is full.
    pub amount: f64,
    /// How long nothing goes out at all.
    pub blocked: Option<Duration>,
    /// Invalid answers in the last ten minutes.
    pub invalid: u32,
    /// How many calls wait.
    pub waiting: usize,
    /// How many calls had to wait so far.
    pub waits: u64,
    /// And for how long, all together.
    pub waited: Duration,
}

impl Bucket {
    pub(super) fn new(profile: &Profile) -> Self {
        let state = State {
            amount: profile.amount.max(1.0),
            per: profile.per.max(Duration::from_millis(1)),
            points: profile.amount.max(1.0),
            at: Instant::now(),
            blocked_until: None,
            invalid_limit: profile.invalid_per_10_min,
            invalid: VecDeque::new(),
            waits: 0,
            waited: Duration::ZERO,
        };
        Self {
            state: Mutex::new(state),
            turns: [const { tokio::sync::Mutex::const_new(()) }; 3],
            waiting: [const { AtomicUsize::new(0) }; 3],
            changed: Notify::new(),
        }
    }

    /// Waits until `cost` points are there for this priority, and takes them.
    ///
    /// # Errors
    /// [`InvalidConfig`](Error::InvalidConfig) for more points than this priority can ever have.
    ///
    /// # Cancel safety
    /// Nothing is taken when it is dropped.
    pub async fn acquire(&self, cost: u32, priority: Priority) -> Result<()> {
        let begun = Instant::now();
        let place = priority as usize;
        let _waiting = Counted::new(&self.waiting[place]);
        let _turn = self.turns[place].lock().await;
        loop {
            let changed = self.changed.notified();
            let ahead = self.waiting[..place].iter().any(|n| n.load(Ordering::Relaxed) > 0);
            let taken = self.lock().take(f64::from(cost), priority, Instant::now());
            let until = match taken {
                // Somebody more urgent waits for the same points.
                Taken::Yes if ahead => {
                    self.lock().give_back(f64::from(cost));
                    Instant::now() + Duration::from_millis(5)
                }
                Taken::Yes => {
                    let mut state = self.lock();
                    let waited = begun.elapsed();
                    state.waits += u64::from(!waited.is_zero());
                    state.waited += waited;
                    drop(state);
                    self.changed.notify_waiters();
                    return Ok(());
                }
                Taken::Never => {
                    return Err(Error::invalid("cost", "is more than the limit ever allows"));
                }
                Taken::NotBefore(until) => until,
            };
            tokio::select! {
                () = sleep_until(until) => {}
                () = changed => {}
            }
        }
    }

    /// Takes `cost` points if they are there now; else says how long to wait before asking again.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn try_acquire(&self, cost: u32, priority: Priority) -> Result<Result<(), Duration>> {
        let now = Instant::now();
        let taken = self.lock().take(f64::from(cost), priority, now);
        match taken {
            Taken::Yes => Ok(Ok(())),
            Taken::NotBefore(until) => Ok(Err(until - now)),
            Taken::Never => Err(Error::invalid("cost", "is more than the limit ever allows")),
        }
    }

    /// Takes in what the headers of an answer said: names and values as they came.
    pub fn learn(&self, headers: &[(&str, &str)]) {
        let now = Duration::from_micros(u64::try_from(clock::now().0).unwrap_or(0));
        let said = headers::read(headers, now.as_secs_f64());
        self.lock().learn(&said, Instant::now());
        self.changed.notify_waiters();
    }

    /// Takes in the status of an answer with what its headers said: 401, 403 and 429 count as invalid, unless the limit
    /// was one that others use up as well.
    pub fn answered(&self, status: u16, headers: &[(&str, &str)]) {
        self.learn(headers);
        let shared = headers::read(headers, 0.0).shared;
        if matches!(status, 401 | 403 | 429) && !shared {
            self.lock().count_invalid(Instant::now());
        }
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> BucketStatus {
        let now = Instant::now();
        let mut state = self.lock();
        state.refill(now);
        BucketStatus {
            points: state.points,
            amount: state.amount,
            blocked: state
                .blocked_until
                .and_then(|until| until.checked_duration_since(now))
                .filter(|left| !left.is_zero()),
            invalid: state.invalid_within(now),
            waiting: self.waiting.iter().map(|n| n.load(Ordering::Relaxed)).sum(),
            waits: state.waits,
            waited: state.waited,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        let status = self.status();
        status.points >= status.amount && status.blocked.is_none() && status.invalid == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Taken {
    Yes,
    NotBefore(Instant),
    Never,
}

impl State {
    fn per_point(&self) -> f64 {
        self.per.as_secs_f64() / self.amount
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.points = (self.points + passed / self.per_point()).min(self.amount);
        self.at = now;
    }

    fn take(&mut self, cost: f64, priority: Priority, now: Instant) -> Taken {
        let left = (self.amount * priority.leaves()).floor();
        if cost > self.amount - left {
            return Taken::Never;
        }
        self.refill(now);
        if let Some(until) = self.blocked_until.filter(|until| *until > now) {
            return Taken::NotBefore(until);
        }
        if let Some(until) = self.banned_until(now) {
            return Taken::NotBefore(until);
        }
        // A hair less than a whole point is one: these are fractions of seconds.
        let missing = cost + left - self.points - 1e-9;
        if missing <= 0.0 {
            self.points -= cost;
            return Taken::Yes;
        }
        let wait = Duration::from_secs_f64(missing * self.per_point());
        Taken::NotBefore(now + wait.max(Duration::from_millis(1)))
    }

    fn give_back(&mut self, cost: f64) {
        self.points = (self.points + cost).min(self.amount);
    }

    fn learn(&mut self, said: &headers::Said, now: Instant) {
        self.refill(now);
        if said.shared {
            return;
        }
        if let Some(limit) = said.limit {
            self.amount = limit;
            self.points = self.points.min(limit);
        }
        if let Some(remaining) = said.remaining {
            // Others may have used the same key; what was sent and not answered yet is not in it.
            self.points = self.points.min(remaining);
            if let Some(reset) = said.reset_after.filter(|_| remaining < 1.0) {
                self.block(now + reset);
            }
        }
        if let Some(retry) = said.retry_after {
            self.block(now + retry);
        }
    }

    fn block(&mut self, until: Instant) {
        self.blocked_until = self.blocked_until.max(Some(until));
    }

    fn count_invalid(&mut self, now: Instant) {
        match self.invalid.back_mut() {
            Some((since, count)) if now.duration_since(*since) < STEP => *count += 1,
            _ => self.invalid.push_back((now, 1)),
        }
        while self.invalid.front().is_some_and(|(since, _)| now.duration_since(*since) > WINDOW) {
            self.invalid.pop_front();
        }
    }

    fn invalid_within(&self, now: Instant) -> u32 {
        let recent = self.invalid.iter().filter(|(since, _)| now.duration_since(*since) <= WINDOW);
        recent.map(|(_, count)| count).sum()
    }

    /// Until the oldest of too many invalid answers no longer count.
    fn banned_until(&self, now: Instant) -> Option<Instant> {
        let limit = self.invalid_limit?;
        if self.invalid_within(now) < limit {
            return None;
        }
        let oldest = self.invalid.iter().find(|(since, _)| now.duration_since(*since) <= WINDOW)?;
        Some(oldest.0 + WINDOW + Duration::from_millis(1))
    }
}

/// Counts somebody who waits, until it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
