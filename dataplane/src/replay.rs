//! Replay windows: what was opened is not opened again, by none of the workers.
//!
//! A copy of a packet may come in by another interface and meet another worker, so the windows of a key are shared by all
//! of them, without a lock. A window is a ring of words after RFC 6479, but each word says which block it stands for:
//! `lap u32 ‖ bits u32`, where `block = seq / 32`, the word is at `block mod ring` and `lap = block / ring`. Entering a
//! block and marking a packet in it are then one compare-and-swap of one word, and nothing is ever cleared.
//!
//! Why a sequence number is granted at most once, whatever the workers do at the same time: it is granted by a swap from a
//! word of a lower lap, or of its own lap with its bit clear, to a word of its lap with the bit set. No swap lowers a
//! word's lap, and none clears a bit without raising the lap. So after the first grant every later try finds the bit, or
//! a higher lap, and fails. Only this word counts; `top_block` just keeps the window as narrow as was asked for.
//!
//! Checking and claiming are apart: a packet is checked before it is decrypted, and claimed only when it proved authentic.
//! Of two copies decrypted at the same time one loses its claim.

use gemcast_proto::id::KeyId;
use gemcast_proto::reason::Reason;
use gemcast_xdp::seks::LANES;
use std::cmp::Ordering::{Equal, Greater, Less};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Default number of packets behind the newest that are still accepted.
pub const DEFAULT_WINDOW: usize = 8192;
/// First sequence number that no key gets to: it seals 2³⁴ packets. A lap of the smallest ring fits in its 32 bits.
pub const SEQ_END: u64 = 1 << 34;
/// Keys whose windows are kept after they left the map.
const RETIRED_LIMIT: usize = 1024;
const BLOCK_BITS: u64 = 32;

/// Sequence numbers of one lane of one key that were opened. They start at 1.
pub struct ReplayWindow {
    words: Box<[AtomicU64]>,
    /// The newest block with a packet in it.
    top_block: AtomicU64,
    /// Blocks behind the newest that still count.
    window_blocks: u64,
    /// Everything up to here counts as seen: what an earlier data plane opened.
    floor: u64,
    /// log₂ of the number of words.
    ring_bits: u32,
    /// Whether only one worker uses it.
    exclusive: bool,
}

impl ReplayWindow {
    /// A window that accepts `window` packets behind the newest, rounded up to whole blocks. Everything up to `floor` counts
    /// as seen: 0 for a new key. An `exclusive` one may be used by one thread only, at less cost.
    pub fn new(window: usize, floor: u64, exclusive: bool) -> Self {
        let window_blocks = (window as u64).div_ceil(BLOCK_BITS).max(1);
        // The window's blocks and the one that is being entered; a power of two, so that the place in the ring is a mask.
        let words = (window_blocks + 1).next_power_of_two();
        Self {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            top_block: AtomicU64::new(floor / BLOCK_BITS),
            window_blocks,
            floor,
            ring_bits: words.trailing_zeros(),
            exclusive,
        }
    }

    /// The word of a sequence number, its lap there, and its bit.
    #[inline]
    fn place(&self, seq: u64) -> (&AtomicU64, u64, u64) {
        let block = seq / BLOCK_BITS;
        let index = block as usize & (self.words.len() - 1);
        (&self.words[index], block >> self.ring_bits, 1 << (seq % BLOCK_BITS))
    }

    /// Whether a sequence number may still be accepted.
    #[inline]
    pub fn check(&self, seq: u64) -> Result<(), Reason> {
        check_range(seq, self.floor)?;
        if seq / BLOCK_BITS + self.window_blocks < self.top_block.load(Relaxed) {
            return Err(Reason::TooOld);
        }
        let (word, lap, bit) = self.place(seq);
        next_word(word.load(Relaxed), lap, bit).map(drop)
    }

    /// Takes a sequence number that passed [`ReplayWindow::check`] and whose packet is authentic. It is given away once.
    #[inline]
    pub fn claim(&self, seq: u64) -> Result<(), Reason> {
        let (word, lap, bit) = self.place(seq);
        let mut seen = word.load(Relaxed);
        loop {
            let next = next_word(seen, lap, bit)?;
            if self.exclusive {
                word.store(next, Relaxed);
                break;
            }
            match word.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        let block = seq / BLOCK_BITS;
        if block > self.top_block.load(Relaxed) {
            self.top_block.fetch_max(block, Relaxed);
        }
        Ok(())
    }
}

/// Whether a sequence number is one that is given at all.
#[inline]
fn check_range(seq: u64, floor: u64) -> Result<(), Reason> {
    if seq <= floor {
        return Err(Reason::TooOld);
    }
    if seq >= SEQ_END { Err(Reason::CounterExhausted) } else { Ok(()) }
}

/// A word with one more bit of this lap.
#[inline]
fn next_word(word: u64, lap: u64, bit: u64) -> Result<u64, Reason> {
    match (word >> 32).cmp(&lap) {
        Greater => Err(Reason::TooOld),
        Equal if word & bit != 0 => Err(Reason::Replay),
        Equal => Ok(word | bit),
        Less => Ok(lap << 32 | bit),
    }
}

/// The windows of one key, a lane each; a lane's is made when its first packet was opened.
pub struct KeyWindows {
    lanes: [OnceLock<ReplayWindow>; LANES],
    floors: [u64; LANES],
    window: usize,
    exclusive: bool,
}

impl KeyWindows {
    /// Whether a sequence number may still be accepted.
    #[inline]
    pub fn check(&self, lane: usize, seq: u64) -> Result<(), Reason> {
        let (Some(window), Some(floor)) = (self.lanes.get(lane), self.floors.get(lane)) else {
            return Err(Reason::TooOld);
        };
        match window.get() {
            Some(window) => window.check(seq),
            None => check_range(seq, *floor),
        }
    }

    /// Whether only one worker uses them.
    #[inline]
    pub fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// Takes a sequence number that passed [`KeyWindows::check`] and whose packet is authentic. It is given away once.
    #[inline]
    pub fn claim(&self, lane: usize, seq: u64) -> Result<(), Reason> {
        let new = || ReplayWindow::new(self.window, self.floors[lane], self.exclusive);
        self.lanes[lane].get_or_init(new).claim(seq)
    }
}

/// The windows of every key, shared by the workers. They lock it when a key appears or goes, never for a packet.
pub struct Windows {
    known: Mutex<Known>,
    exclusive: bool,
}

#[derive(Default)]
struct Known {
    keys: HashMap<KeyId, Arc<KeyWindows>>,
    /// Keys that no worker uses any more: one that comes back accepts nothing a second time.
    retired: VecDeque<KeyId>,
}

impl Windows {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        Self { known: Mutex::default(), exclusive: workers <= 1 }
    }

    /// The windows of a key: those it has, or new ones that accept `window` packets behind the newest and nothing up to
    /// `floors`.
    pub fn of(&self, key_id: KeyId, window: usize, floors: [u64; LANES]) -> Arc<KeyWindows> {
        let mut known = self.lock();
        if let Some(windows) = known.keys.get(&key_id).map(Arc::clone) {
            known.retired.retain(|retired| *retired != key_id);
            return windows;
        }
        let lanes = std::array::from_fn(|_| OnceLock::new());
        let windows = Arc::new(KeyWindows { lanes, floors, window, exclusive: self.exclusive });
        known.keys.insert(key_id, Arc::clone(&windows));
        windows
    }

    /// Gives back the windows of a key that is no longer in the map.
    pub fn give_back(&self, key_id: KeyId, windows: Arc<KeyWindows>) {
        let mut known = self.lock();
        drop(windows);
        // Counted under the lock, under which alone one becomes two.
        if known.keys.get(&key_id).is_none_or(|windows| Arc::strong_count(windows) > 1) {
            return;
        }
        known.retired.push_back(key_id);
        if known.retired.len() > RETIRED_LIMIT
            && let Some(oldest) = known.retired.pop_front()
        {
            known.keys.remove(&oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicU8;

    /// What a window must do, told with a set.
    struct Model {
        window_blocks: u64,
        top: u64,
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, seq: u64) -> Result<(), Reason> {
            if seq == 0 || seq / BLOCK_BITS + self.window_blocks < self.top / BLOCK_BITS {
                return Err(Reason::TooOld);
            }
            if !self.seen.insert(seq) {
                return Err(Reason::Replay);
            }
            self.top = self.top.max(seq);
            Ok(())
        }
    }

    fn accept(window: &ReplayWindow, seq: u64) -> Result<(), Reason> {
        window.check(seq).and_then(|()| window.claim(seq))
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(
            size in 1usize..300,
            exclusive in any::<bool>(),
            steps in prop::collection::vec((any::<bool>(), 0u64..400), 1..400),
        ) {
            let window = ReplayWindow::new(size, 0, exclusive);
            let window_blocks = (size as u64).div_ceil(BLOCK_BITS);
            let mut model = Model { window_blocks, top: 0, seen: BTreeSet::new() };
            for (ahead, distance) in steps {
                let seq = if ahead { model.top + distance } else { model.top.saturating_sub(distance) };
                prop_assert_eq!(accept(&window, seq), model.accept(seq), "seq {}", seq);
                prop_assert!(seq == 0 || model.top - seq >= size as u64 || model.seen.contains(&seq), "as wide as asked for");
            }
        }

        #[test]
        fn goes_on_after_a_restart(top in 1u64..1_000_000, ahead in 1u64..300) {
            let window = ReplayWindow::new(128, top, false);
            for old in top.saturating_sub(200)..=top {
                prop_assert!(window.check(old).is_err(), "{} was accepted before the restart", old);
            }
            prop_assert_eq!(accept(&window, top + ahead), Ok(()));
            prop_assert_eq!(accept(&window, top + ahead), Err(Reason::Replay));
            for between in top + 1..top + ahead {
                if top + ahead - between < 128 {
                    prop_assert_eq!(window.check(between), Ok(()), "{} was never seen", between);
                }
            }
        }
    }

    #[test]
    fn a_jump_over_the_whole_ring_forgets_everything_before_it() {
        let window = ReplayWindow::new(64, 0, false);
        for seq in 1..=64 {
            assert_eq!(accept(&window, seq), Ok(()));
        }
        let far = 1 << 33;
        assert_eq!(accept(&window, far), Ok(()));
        assert_eq!(accept(&window, far - 63), Ok(()));
        assert_eq!(accept(&window, far - 65), Err(Reason::TooOld));
        assert_eq!(accept(&window, 64), Err(Reason::TooOld));
        assert_eq!(accept(&window, SEQ_END - 1), Ok(()), "the last one there is");
        assert_eq!(accept(&window, SEQ_END), Err(Reason::CounterExhausted));
        assert_eq!(accept(&window, u64::MAX >> 8), Err(Reason::CounterExhausted));
    }

    #[test]
    fn a_claim_between_check_and_claim_wins() {
        let window = ReplayWindow::new(64, 0, false);
        assert_eq!((window.check(7), window.check(7)), (Ok(()), Ok(())));
        assert_eq!((window.claim(7), window.claim(7)), (Ok(()), Err(Reason::Replay)));
        // The newest moves on by a whole ring while a packet is decrypted: its place is another block's by then.
        assert_eq!(window.check(8), Ok(()));
        let words = window.words.len() as u64;
        assert_eq!(accept(&window, 8 + words * BLOCK_BITS), Ok(()));
        assert_eq!(window.claim(8), Err(Reason::TooOld));
    }

    /// Every thread offers the same numbers, in an order of its own, around a front that moves through many laps of a small
    /// ring: each number goes to one thread at most, and to one exactly unless it was too old for all.
    #[test]
    fn threads_never_both_get_a_number() {
        const THREADS: u64 = 4;
        const NUMBERS: u64 = 60_000;
        const SPREAD: u64 = 200;
        let window = ReplayWindow::new(64, 0, false);
        let granted: Vec<AtomicU8> = (0..=NUMBERS).map(|_| AtomicU8::new(0)).collect();
        let too_old: Vec<AtomicU8> = (0..=NUMBERS).map(|_| AtomicU8::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (window, granted, too_old) = (&window, &granted, &too_old);
                scope.spawn(move || {
                    // Shuffles within stretches, by a stride of its own that shares no factor with their length.
                    let stride = [1, 77, 123, 199][thread as usize];
                    for at in 0..NUMBERS {
                        let seq = at / SPREAD * SPREAD + at * stride % SPREAD + 1;
                        match accept(window, seq) {
                            Ok(()) => granted[seq as usize].fetch_add(1, Relaxed),
                            Err(Reason::TooOld) => too_old[seq as usize].fetch_add(1, Relaxed),
                            Err(_) => 0,
                        };
                    }
                });
            }
        });
        for seq in 1..=NUMBERS as usize {
            let (granted, too_old) = (granted[seq].load(Relaxed), too_old[seq].load(Relaxed));
            assert!(granted <= 1, "{seq} was given {granted} times");
            assert!(granted == 1 || u64::from(too_old) == THREADS, "{seq} was given to nobody");
        }
    }

    #[test]
    fn windows_outlive_their_key_and_are_bounded() {
        let windows = Windows::new(2);
        let (ours, theirs) = (windows.of(KeyId(1), 64, [0; LANES]), windows.of(KeyId(1), 64, [0; LANES]));
        ours.claim(3, 9).unwrap();
        assert_eq!(theirs.check(3, 9), Err(Reason::Replay), "shared");
        assert_eq!(theirs.check(2, 9), Ok(()), "each lane has its own");
        windows.give_back(KeyId(1), ours);
        assert!(windows.lock().retired.is_empty(), "still in use");
        windows.give_back(KeyId(1), theirs);
        let back = windows.of(KeyId(1), 64, [0; LANES]);
        assert_eq!(back.check(3, 9), Err(Reason::Replay), "back again");
        for id in 2..RETIRED_LIMIT as u32 + 10 {
            windows.give_back(KeyId(id), windows.of(KeyId(id), 64, [0; LANES]));
        }
        assert_eq!(windows.lock().keys.len(), RETIRED_LIMIT + 1);
        windows.give_back(KeyId(1), back);
        assert_eq!(windows.of(KeyId(1), 64, [0; LANES]).check(3, 9), Err(Reason::Replay), "in use until just now");
        let restarted = Windows::new(1).of(KeyId(1), 64, [5; LANES]);
        assert_eq!((restarted.check(0, 5), restarted.check(0, 6)), (Err(Reason::TooOld), Ok(())));
        assert_eq!(restarted.check(LANES, 1), Err(Reason::TooOld), "no such lane");
    }
}
