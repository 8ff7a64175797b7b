//! Patterns by the hundred thousand, which come and go: found by hash instead of by automaton.
//!
//! A [`Table`] keeps no pattern, only what it takes to recognize it: hashes under a random key of two short windows near
//! its end (the beginnings of tokens are often alike) and one of the whole. A text is searched by the hash of every
//! second window, against a small filter first. What is left is looked up and compared by the hash of the whole: 64 bits,
//! so that a mistake is not to be expected in the life of a machine.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Bytes that one look at a text takes in.
const WINDOW: usize = 8;
/// Every so many bytes a text is looked at; as many windows are known of each pattern, so that one of them is met.
const STEP: usize = 2;
/// Shorter patterns have no room for the windows.
pub(super) const SHORTEST_HASHED: usize = WINDOW + STEP - 1;
/// Longer ones do not fit an [`Entry`].
pub(super) const LONGEST_HASHED: usize = u16::MAX as usize;
/// Entries in a leaf, on average: so much is copied for a new one.
const LEAF: usize = 256;
/// Of the filter, for each window: one in fifty looks finds both bits set by chance.
const FILTER_BITS: usize = 16;
/// Never to be forgotten.
pub(super) const FOR_EVER: u32 = u32::MAX;

/// A set of patterns. Clones are cheap, and stay as they are when the original changes.
#[derive(Clone)]
pub(super) struct Table {
    key: Arc<Key>,
    /// A power of two of them, by the highest bits of the first window; sorted. Copied on write.
    leaves: Arc<Vec<Arc<Vec<Entry>>>>,
    /// Shared with clones, for which it may hold too much but never too little.
    filter: Arc<Filter>,
    entries: usize,
    longest: usize,
    /// The first moment at which something is to be forgotten.
    earliest: u32,
}

/// What is kept of a pattern.
#[derive(Clone, Copy)]
struct Entry {
    whole: u64,
    windows: [u32; STEP],
    /// Seconds since the epoch.
    until: u32,
    length: u16,
}

impl Entry {
    fn order(&self) -> (u32, u16, u64) {
        (self.windows[0], self.length, self.whole)
    }
}

/// Random, so that no text can be made up that is slow to search.
struct Key {
    mix: [u64; 2],
    whole: RandomState,
}

impl Key {
    fn new() -> Self {
        let whole = RandomState::new();
        // The second is a factor: odd, lest it loses bits.
        Self { mix: [whole.hash_one(1), whole.hash_one(2) | 1], whole }
    }

    fn window(&self, bytes: [u8; WINDOW]) -> u32 {
        let wide = u128::from(u64::from_le_bytes(bytes) ^ self.mix[0]) * u128::from(self.mix[1]);
        let folded = (wide >> 64) ^ wide;
        u32::try_from((folded >> 32) & u128::from(u32::MAX)).unwrap_or(0)
    }

    fn window_at(&self, text: &[u8], at: usize) -> Option<u32> {
        Some(self.window(*text.get(at..)?.first_chunk()?))
    }

    fn whole(&self, text: &[u8]) -> u64 {
        let mut hasher = self.whole.build_hasher();
        hasher.write(text);
        hasher.finish()
    }
}

/// Whether a window may be one of a pattern's.
struct Filter {
    words: Box<[AtomicU64]>,
    /// For so many entries it is made.
    room: usize,
}

impl Filter {
    fn new(entries: usize) -> Self {
        let room = entries.next_power_of_two().max(LEAF);
        let words = (0..room * STEP * FILTER_BITS / 64).map(|_| AtomicU64::new(0)).collect();
        Self { words, room }
    }

    fn place(&self, window: u32) -> (&AtomicU64, u64) {
        let index = (u64::from(window) * self.words.len() as u64) >> 32;
        let bits = (1 << (window & 63)) | (1 << ((window >> 6) & 63));
        // The index is smaller than the length, which is never zero.
        (&self.words[usize::try_from(index).unwrap_or(0)], bits)
    }

    fn add(&self, entry: &Entry) {
        for window in entry.windows {
            let (word, bits) = self.place(window);
            word.fetch_or(bits, Ordering::Relaxed);
        }
    }

    fn may_hold(&self, window: u32) -> bool {
        let (word, bits) = self.place(window);
        word.load(Ordering::Relaxed) & bits == bits
    }
}

impl Default for Table {
    fn default() -> Self {
        Self {
            key: Arc::new(Key::new()),
            leaves: Arc::new(vec![Arc::default()]),
            filter: Arc::new(Filter::new(0)),
            entries: 0,
            longest: 0,
            earliest: FOR_EVER,
        }
    }
}

impl Table {
    /// How many patterns it knows.
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// The longest pattern's length.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Adds `pattern`, to be known at least until then; says whether it is new. Its length is from [`SHORTEST_HASHED`] to
    /// [`LONGEST_HASHED`].
    pub(super) fn insert(&mut self, pattern: &[u8], until: u32) -> bool {
        let Some(entry) = self.entry(pattern, until) else { return false };
        if self.entries >= self.leaves.len() * LEAF {
            self.split();
        }
        let index = self.leaf_of(entry.windows[0]);
        let Some(leaf) = Arc::make_mut(&mut self.leaves).get_mut(index) else { return false };
        match leaf.binary_search_by_key(&entry.order(), Entry::order) {
            Ok(at) => {
                if leaf.get(at).is_some_and(|known| known.until < until)
                    && let Some(known) = Arc::make_mut(leaf).get_mut(at)
                {
                    known.until = until;
                }
                return false;
            }
            Err(at) => with_one_more(leaf, at, entry),
        }
        self.entries += 1;
        self.longest = self.longest.max(pattern.len());
        self.earliest = self.earliest.min(until);
        if self.entries > self.filter.room {
            self.refill();
        } else {
            self.filter.add(&entry);
        }
        true
    }

    /// Drops what was to be known until `now` at most; says whether there was any.
    pub(super) fn forget(&mut self, now: u32) -> bool {
        if self.earliest > now {
            return false;
        }
        let kept: Vec<Entry> = self.all().filter(|entry| entry.until > now).copied().collect();
        let forgotten = kept.len() < self.entries;
        self.earliest = kept.iter().map(|entry| entry.until).min().unwrap_or(FOR_EVER);
        if forgotten {
            self.longest = kept.iter().map(|entry| usize::from(entry.length)).max().unwrap_or(0);
            self.entries = kept.len();
            let leaves = (kept.len() / LEAF + 1).next_power_of_two();
            self.spread(kept.into_iter(), leaves);
            self.refill();
        }
        forgotten
    }

    /// Adds the places of all patterns in `text` to `found`, in no order, overlaps included.
    pub(super) fn find(&self, text: &[u8], found: &mut Vec<(usize, usize)>) {
        for (nth, window) in text.windows(WINDOW).step_by(STEP).enumerate() {
            let Some(bytes) = window.first_chunk() else { return };
            if self.filter.may_hold(self.key.window(*bytes)) {
                self.look(text, nth * STEP, found);
            }
        }
    }

    /// Looks whether a window at `at` belongs to a pattern.
    fn look(&self, text: &[u8], at: usize, found: &mut Vec<(usize, usize)>) {
        for first in (0..STEP).filter_map(|back| at.checked_sub(back)) {
            let Some(window) = self.key.window_at(text, first) else { continue };
            let leaf = self.leaves.get(self.leaf_of(window)).map(|leaf| &***leaf);
            let leaf = leaf.unwrap_or_default();
            let from = leaf.partition_point(|entry| entry.windows[0] < window);
            let like = leaf[from..].iter().take_while(|entry| entry.windows[0] == window);
            let end = first + SHORTEST_HASHED;
            // Those of one length are neighbours: the text is hashed once for all of them.
            let mut hashed = None;
            for entry in like {
                let length = usize::from(entry.length);
                let Some(begin) = end.checked_sub(length) else { continue };
                let Some(part) = text.get(begin..end) else { continue };
                let whole = match hashed {
                    Some((of, whole)) if of == length => whole,
                    _ => self.key.whole(part),
                };
                hashed = Some((length, whole));
                if whole == entry.whole {
                    found.push((begin, end));
                }
            }
        }
    }

    fn entry(&self, pattern: &[u8], until: u32) -> Option<Entry> {
        let first = pattern.len().checked_sub(SHORTEST_HASHED)?;
        let mut windows = [0; STEP];
        for (nth, window) in windows.iter_mut().enumerate() {
            *window = self.key.window_at(pattern, first + nth)?;
        }
        let length = u16::try_from(pattern.len()).ok()?;
        Some(Entry { whole: self.key.whole(pattern), windows, until, length })
    }

    fn leaf_of(&self, window: u32) -> usize {
        let index = (u64::from(window) * self.leaves.len() as u64) >> 32;
        usize::try_from(index).unwrap_or(0)
    }

    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.leaves.iter().flat_map(|leaf| leaf.iter())
    }

    /// Twice as many leaves.
    fn split(&mut self) {
        let old = Arc::clone(&self.leaves);
        self.spread(old.iter().flat_map(|leaf| leaf.iter().copied()), old.len() * 2);
    }

    /// Makes the leaves anew, of entries in order.
    fn spread(&mut self, entries: impl Iterator<Item = Entry>, leaves: usize) {
        self.leaves = Arc::new(vec![Arc::default(); leaves]);
        let mut fresh: Vec<Vec<Entry>> = vec![Vec::new(); leaves];
        for entry in entries {
            let index = self.leaf_of(entry.windows[0]);
            if let Some(leaf) = fresh.get_mut(index) {
                leaf.push(entry);
            }
        }
        let shrunk = fresh.into_iter().map(|mut leaf| {
            leaf.shrink_to_fit();
            Arc::new(leaf)
        });
        self.leaves = Arc::new(shrunk.collect());
    }

    fn refill(&mut self) {
        let filter = Filter::new(self.entries);
        self.all().for_each(|entry| filter.add(entry));
        self.filter = Arc::new(filter);
    }
}

/// Inserts into a leaf: into a copy where somebody else has it too. With little room to spare: there are thousands.
fn with_one_more(leaf: &mut Arc<Vec<Entry>>, at: usize, entry: Entry) {
    if let Some(own) = Arc::get_mut(leaf) {
        if own.len() == own.capacity() {
            own.reserve_exact(own.len() / 8 + 1);
        }
        own.insert(at, entry);
        return;
    }
    let mut copy = Vec::with_capacity(leaf.len() + 1);
    let (before, after) = leaf.split_at_checked(at).unwrap_or((leaf, &[]));
    copy.extend_from_slice(before);
    copy.push(entry);
    copy.extend_from_slice(after);
    *leaf = Arc::new(copy);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that are the same in every run.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self, below: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            usize::try_from(self.0 >> 33).unwrap() % below
        }

        fn text(&mut self, length: usize, letters: &[u8]) -> Vec<u8> {
            (0..length).map(|_| letters[self.next(letters.len())]).collect()
        }
    }

    fn found(table: &Table, text: &[u8]) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        table.find(text, &mut found);
        found.sort_unstable();
        found
    }

    /// Two letters, so that patterns overlap, contain and repeat one another.
    #[test]
    fn finds_what_a_plain_search_finds() {
        let mut numbers = Numbers(7);
        for _ in 0..50 {
            let mut table = Table::default();
            let mut patterns = std::collections::BTreeSet::new();
            for _ in 0..700 {
                let length = SHORTEST_HASHED + numbers.next(8);
                let pattern = numbers.text(length, b"ab");
                assert_eq!(table.insert(&pattern, FOR_EVER), patterns.insert(pattern.clone()));
            }
            assert_eq!(table.len(), patterns.len());
            let text = numbers.text(400, b"ab");
            let mut expected: Vec<(usize, usize)> = patterns
                .iter()
                .flat_map(|pattern| {
                    let places = text.windows(pattern.len()).enumerate();
                    places.filter(|(_, part)| *part == &**pattern).map(|(at, p)| (at, at + p.len()))
                })
                .collect();
            expected.sort_unstable();
            assert_eq!(found(&table, &text), expected);
        }
    }

    #[test]
    fn is_found_at_every_place_up_to_the_edges() {
        let mut table = Table::default();
        table.insert(b"123456789", FOR_EVER);
        for before in 0..20 {
            for after in 0..3 {
                let text = [vec![b'x'; before], b"123456789".to_vec(), vec![b'y'; after]].concat();
                assert_eq!(found(&table, &text), [(before, before + 9)], "{before} {after}");
            }
        }
        assert_eq!(found(&table, b"12345678"), []);
    }

    #[test]
    fn forgets_what_is_due_and_keeps_the_rest() {
        let mut numbers = Numbers(3);
        let letters = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let patterns: Vec<Vec<u8>> = (0..5_000).map(|_| numbers.text(30, letters)).collect();
        let mut table = Table::default();
        for (nth, pattern) in patterns.iter().enumerate() {
            table.insert(pattern, if nth % 2 == 0 { 100 } else { 200 });
        }
        table.insert(&patterns[0], 300);
        let before = table.clone();
        assert!(!table.forget(99));
        assert!(table.forget(100));
        assert_eq!((table.len(), before.len()), (2_501, 5_000));
        for (nth, pattern) in patterns.iter().enumerate() {
            let kept = nth % 2 == 1 || nth == 0;
            assert_eq!(found(&table, pattern).len(), usize::from(kept), "{nth}");
            assert_eq!(found(&before, pattern).len(), 1, "a clone stays as it was: {nth}");
        }
        assert!(table.forget(300));
        assert_eq!((table.len(), table.longest()), (0, 0));
        assert!(table.insert(&patterns[1], 400));
        assert_eq!(found(&table, &patterns[1]), [(0, 30)]);
    }

    #[test]
    fn a_clone_does_not_find_what_was_added_later() {
        let mut table = Table::default();
        let before = table.clone();
        table.insert(b"added later on", FOR_EVER);
        assert_eq!(found(&before, b"added later on"), []);
        assert_eq!(found(&table, b"added later on"), [(0, 14)]);
    }
}
