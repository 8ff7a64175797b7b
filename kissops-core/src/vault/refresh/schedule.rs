//! When a grant is refreshed, and which of those that are due comes first.
//!
//! One heap for all grants, by the time at which they are due; one for each provider with those that are due by now, the
//! most urgent first: what callers wait for, then what expires first. Times are spans of the boot clock.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::{
    Timestamp,
    id::stable_hash,
    store::{GrantExpiry, GrantId},
    vault::RefreshWindow,
};

/// When to refresh what was issued at `issued`: at 75 to 85 % of its life, or what else the provider's profile says, by a
/// hash of the grant; with the profile's lead before the end, but never before half of the life. What was issued together
/// does not come due together.
pub(crate) fn refresh_point(
    id: GrantId,
    issued: Timestamp,
    expiry: &GrantExpiry,
    window: RefreshWindow,
) -> Option<Timestamp> {
    let part = window.from + (window.to - window.from) * share(id);
    let point = |end: Timestamp, lead: Duration| {
        let life = end.since(issued);
        let jittered = life.mul_f64(part.clamp(0.0, 1.0));
        issued.plus(jittered.min(life.saturating_sub(lead)).max(life / 2))
    };
    let access = expiry.access.map(|end| point(end, window.lead));
    let idle = expiry.idle.map(|end| point(end, Duration::ZERO));
    access.into_iter().chain(idle).min()
}

/// When to validate next: within each span at a moment that the hash of the grant gives.
pub(crate) fn validate_point(id: GrantId, now: Timestamp, every: Duration) -> Timestamp {
    let every_us = i64::try_from(every.as_micros()).unwrap_or(i64::MAX).max(1);
    let offset = i64::try_from(every.mul_f64(share(id)).as_micros()).unwrap_or(0);
    let begun = (now.0.saturating_sub(offset)).div_euclid(every_us);
    Timestamp(begun.saturating_add(1).saturating_mul(every_us).saturating_add(offset))
}

/// A number from 0 to 1 that is the grant's own, in every process.
pub(crate) fn share(id: GrantId) -> f64 {
    let hash = stable_hash([id.0.to_le_bytes().as_slice()]);
    // FNV's low bits are its best; 32 of them are exact in a float.
    f64::from(u32::try_from((hash ^ (hash >> 32)) & u64::from(u32::MAX)).unwrap_or(0))
        / f64::from(u32::MAX)
}

/// How urgent something is: smaller is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// Somebody waits for it.
    Awaited,
    /// The access token expires then.
    Expires(Timestamp),
    /// Nobody knows when it expires.
    Whenever,
}

impl Urgency {
    pub(crate) fn of(expiry: &GrantExpiry) -> Self {
        expiry.access.map_or(Self::Whenever, Self::Expires)
    }
}

/// Whether a provider may be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// Not before that time.
    Until(Duration),
    /// Not before something that is under way has ended.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waiting,
    Ready,
    /// Being worked on; what came meanwhile is to be done after it.
    Running {
        again: Option<Duration>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Item {
    lane: usize,
    due: Duration,
    urgency: Urgency,
    place: Place,
}

#[derive(Debug)]
struct Lane {
    provider: Arc<str>,
    ready: BinaryHeap<Reverse<(Urgency, GrantId)>>,
}

/// What is due when. Each grant is in it once.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    items: HashMap<GrantId, Item>,
    /// Entries that differ from their item are leftovers.
    waiting: BinaryHeap<Reverse<(Duration, GrantId)>>,
    lanes: Vec<Lane>,
    ready: usize,
}

impl Schedule {
    /// Has a grant attended to at `due`, in the place of what was planned for it.
    pub(crate) fn plan(&mut self, id: GrantId, provider: &str, due: Duration, urgency: Urgency) {
        let lane = self.lane(provider);
        match self.items.get_mut(&id) {
            Some(Item { place: Place::Running { again }, .. }) => {
                *again = Some(again.map_or(due, |known| known.min(due)));
            }
            // What is ready stays so; it may have become more urgent.
            Some(item) if item.place == Place::Ready => {
                if urgency < item.urgency {
                    item.urgency = urgency;
                    self.lanes[lane].ready.push(Reverse((urgency, id)));
                }
            }
            _ => {
                self.items.insert(id, Item { lane, due, urgency, place: Place::Waiting });
                self.waiting.push(Reverse((due, id)));
            }
        }
    }

    /// Like [`plan`](Self::plan), but what was planned earlier stays.
    pub(crate) fn plan_no_later(
        &mut self,
        id: GrantId,
        provider: &str,
        due: Duration,
        urgency: Urgency,
    ) {
        let earlier =
            self.items.get(&id).is_some_and(|item| item.place == Place::Waiting && item.due <= due);
        if !earlier {
            self.plan(id, provider, due, urgency);
        }
    }

    /// The most urgent grant that is due at `now`, of a provider that may be asked; the caller works on it from here on.
    pub(crate) fn next(
        &mut self,
        now: Duration,
        mut gate: impl FnMut(&str) -> Gate,
    ) -> Option<(GrantId, Arc<str>)> {
        self.ripen(now);
        let mut best: Option<(Urgency, usize)> = None;
        for lane in 0..self.lanes.len() {
            let Some(urgency) = self.most_urgent(lane) else { continue };
            let first = best.is_none_or(|(known, _)| urgency < known);
            if first && gate(&self.lanes[lane].provider) == Gate::Open {
                best = Some((urgency, lane));
            }
        }
        let lane = &mut self.lanes[best?.1];
        let Reverse((_, id)) = lane.ready.pop()?;
        self.ready -= 1;
        self.items.get_mut(&id)?.place = Place::Running { again: None };
        Some((id, Arc::clone(&lane.provider)))
    }

    /// The work on a grant has ended; what comes next is at `next`, if that is planned here.
    pub(crate) fn done(&mut self, id: GrantId, next: Option<(Duration, Urgency)>) {
        let Some(item) = self.items.remove(&id) else { return };
        let again = match item.place {
            Place::Running { again: Some(at) } => Some((at, Urgency::Awaited)),
            _ => None,
        };
        let first = [again, next].into_iter().flatten().min();
        if let Some((due, urgency)) = first {
            self.items.insert(id, Item { due, urgency, place: Place::Waiting, ..item });
            self.waiting.push(Reverse((due, id)));
        }
    }

    /// When to look again: something comes due, or a gate opens. `None`: not before something else happens.
    pub(crate) fn wake(&mut self, mut gate: impl FnMut(&str) -> Gate) -> Option<Duration> {
        let mut wake = None;
        let mut sooner =
            |at: Duration| wake = Some(wake.map_or(at, |known: Duration| known.min(at)));
        for lane in 0..self.lanes.len() {
            if self.most_urgent(lane).is_some() {
                match gate(&self.lanes[lane].provider) {
                    Gate::Open => sooner(Duration::ZERO),
                    Gate::Until(at) => sooner(at),
                    Gate::Full => {}
                }
            }
        }
        while let Some(Reverse((due, id))) = self.waiting.peek() {
            let item = self.items.get(id);
            if item.is_some_and(|item| item.place == Place::Waiting && item.due == *due) {
                sooner(*due);
                break;
            }
            self.waiting.pop();
        }
        wake
    }

    /// How many grants are due and not begun.
    pub(crate) fn backlog(&self) -> usize {
        self.ready
    }

    /// Moves what is due to its provider's lane.
    fn ripen(&mut self, now: Duration) {
        while let Some(&Reverse((due, id))) = self.waiting.peek() {
            if due > now {
                return;
            }
            self.waiting.pop();
            if let Some(item) = self.items.get_mut(&id)
                && item.place == Place::Waiting
                && item.due == due
            {
                item.place = Place::Ready;
                self.ready += 1;
                self.lanes[item.lane].ready.push(Reverse((item.urgency, id)));
            }
        }
    }

    /// What leads a lane, after leftovers were dropped.
    fn most_urgent(&mut self, lane: usize) -> Option<Urgency> {
        let ready = &mut self.lanes[lane].ready;
        while let Some(&Reverse((urgency, id))) = ready.peek() {
            let item = self.items.get(&id);
            if item.is_some_and(|item| item.place == Place::Ready && item.urgency == urgency) {
                return Some(urgency);
            }
            ready.pop();
        }
        None
    }

    fn lane(&mut self, provider: &str) -> usize {
        self.lanes.iter().position(|lane| &*lane.provider == provider).unwrap_or_else(|| {
            self.lanes.push(Lane { provider: provider.into(), ready: BinaryHeap::new() });
            self.lanes.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const WINDOW: RefreshWindow =
        RefreshWindow { from: 0.75, to: 0.85, lead: Duration::from_mins(10) };

    fn s(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn expires(at: i64) -> Urgency {
        Urgency::Expires(Timestamp(at))
    }

    fn access(life: Duration) -> GrantExpiry {
        GrantExpiry { access: Some(Timestamp(0).plus(life)), ..GrantExpiry::default() }
    }

    fn after(id: i64, life: Duration) -> Duration {
        refresh_point(GrantId(id), Timestamp(0), &access(life), WINDOW).unwrap().since(Timestamp(0))
    }

    #[test]
    fn what_was_issued_together_comes_due_over_a_tenth_of_its_life() {
        let life = 4 * HOUR;
        let mut buckets = [0_u32; 10];
        for id in 0..100_000 {
            let share = after(id << 12, life).as_secs_f64() / life.as_secs_f64();
            assert!((0.75..=0.8501).contains(&share), "{share}");
            let bucket =
                (0..10).rev().find(|at| share >= 0.75 + 0.01 * f64::from(*at)).unwrap_or(0);
            buckets[usize::try_from(bucket).unwrap()] += 1;
        }
        assert!(buckets.iter().all(|count| (9_000..11_000).contains(count)), "{buckets:?}");
    }

    #[test]
    fn short_lives_keep_a_lead_and_half_of_themselves() {
        for id in 0..1_000 {
            assert!(after(id, HOUR) <= 50 * s(60), "a lead of ten minutes");
            assert_eq!(after(id, s(15 * 60)), s(450), "half of a quarter of an hour");
            assert_eq!(after(id, s(2)), s(1));
        }
        assert_eq!(after(1, Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_token_that_ends_when_it_is_idle_is_used_before() {
        let end = |hours| Some(Timestamp(0).plus(HOUR * hours));
        let point = |expiry| refresh_point(GrantId(1), Timestamp(0), &expiry, WINDOW);
        let idle = GrantExpiry { idle: end(100), ..GrantExpiry::default() };
        assert!(point(idle).unwrap() < Timestamp(0).plus(HOUR * 86));
        assert!(
            point(GrantExpiry { access: end(4), ..idle }).unwrap() < Timestamp(0).plus(HOUR * 4)
        );
        assert_eq!(point(GrantExpiry::default()), None);
    }

    #[test]
    fn validations_are_an_hour_apart_and_spread() {
        let mut minutes = [0_u32; 60];
        for id in 0..6_000 {
            let id = GrantId(id);
            let now = Timestamp(1_790_000_000_000_000);
            let first = validate_point(id, now, HOUR);
            assert!(first > now && first <= now.plus(HOUR));
            assert_eq!(validate_point(id, first, HOUR), first.plus(HOUR));
            minutes[usize::try_from(first.since(now).as_secs() / 60).unwrap().min(59)] += 1;
        }
        assert!(minutes.iter().all(|count| (60..150).contains(count)), "{minutes:?}");
    }

    #[test]
    fn the_most_urgent_go_first_whatever_came_due_first() {
        let mut schedule = Schedule::default();
        schedule.plan(GrantId(1), "a", s(1), expires(30));
        schedule.plan(GrantId(2), "a", s(2), expires(10));
        schedule.plan(GrantId(3), "b", s(3), expires(20));
        schedule.plan(GrantId(4), "b", s(9), expires(1));
        schedule.plan(GrantId(5), "b", s(3), Urgency::Awaited);
        let mut order = vec![];
        while let Some((id, _)) = schedule.next(s(4), |_| Gate::Open) {
            order.push(id.0);
        }
        assert_eq!(order, [5, 2, 3, 1]);
        assert_eq!(schedule.wake(|_| Gate::Open), Some(s(9)));
    }

    #[test]
    fn a_closed_gate_holds_up_its_own_provider_alone() {
        let mut schedule = Schedule::default();
        schedule.plan(GrantId(1), "shut", s(1), Urgency::Awaited);
        schedule.plan(GrantId(2), "open", s(1), Urgency::Whenever);
        let gate = |name: &str| if name == "shut" { Gate::Until(s(50)) } else { Gate::Open };
        assert_eq!(schedule.next(s(2), gate).unwrap().0, GrantId(2));
        assert_eq!(schedule.next(s(2), gate), None);
        assert_eq!(schedule.wake(gate), Some(s(50)));
        assert_eq!(schedule.backlog(), 1);
    }

    #[test]
    fn a_grant_is_in_it_once_and_worked_on_by_one() {
        let mut schedule = Schedule::default();
        for due in [5, 3, 9, 3] {
            schedule.plan(GrantId(1), "a", s(due), expires(1));
        }
        let open = |_: &str| Gate::Open;
        assert_eq!(schedule.wake(open), Some(s(3)));
        assert!(schedule.next(s(9), open).is_some());
        schedule.plan(GrantId(1), "a", s(4), Urgency::Awaited);
        assert_eq!(schedule.next(s(9), open), None, "it is being worked on");
        schedule.done(GrantId(1), Some((s(100), expires(1))));
        assert_eq!(schedule.wake(open), Some(s(4)), "what came meanwhile is not forgotten");
        assert!(schedule.next(s(4), open).is_some());
        schedule.done(GrantId(1), None);
        assert_eq!(schedule.wake(open), None);
        assert!(schedule.items.is_empty());
    }

    #[test]
    fn what_is_waited_for_overtakes_even_when_it_was_ready() {
        let mut schedule = Schedule::default();
        schedule.plan(GrantId(1), "a", s(1), expires(1));
        schedule.plan(GrantId(2), "a", s(1), expires(2));
        assert_eq!(schedule.next(s(1), |_| Gate::Full), None);
        schedule.plan(GrantId(2), "a", s(1), Urgency::Awaited);
        let mut order = vec![];
        while let Some((id, _)) = schedule.next(s(1), |_| Gate::Open) {
            order.push(id.0);
            schedule.done(id, None);
        }
        assert_eq!((order, schedule.backlog()), (vec![2, 1], 0));
    }

    #[test]
    fn a_later_plan_moves_what_waits_unless_it_is_to_stay() {
        let mut schedule = Schedule::default();
        schedule.plan(GrantId(1), "a", s(5), expires(1));
        schedule.plan_no_later(GrantId(1), "a", s(9), expires(1));
        assert_eq!(schedule.wake(|_| Gate::Open), Some(s(5)));
        schedule.plan(GrantId(1), "a", s(9), expires(1));
        assert_eq!(schedule.wake(|_| Gate::Open), Some(s(9)));
    }
}
