//! What a group's member can do to another's key: send packets with a right group tag that do not decrypt (R8). Each costs
//! one AEAD at most, and what fails is limited by source: the key id and the outer source address.
//!
//! The key id and the address of such packets may be an honest source's, so nothing here punishes a key as long as that
//! can be helped:
//! - an address that opened packets under the key lately is *known*, and has a budget of failures beyond any accident;
//! - all others are *strangers*, each with a small budget, all of a key together with one not much larger. A new honest
//!   source among them gets its turn with each failure that the budget gives back, and is known from then on.
//!
//! Packets beyond the budgets are dropped without an AEAD. A ban, which hits the honest source too, is asked for when a
//! known address is about to run out of its budget, or when nobody opens anything under the key whatever.
//!
//! One table for each worker, of fixed size: a stranger takes no place from a known source, which nobody becomes without
//! the key.

use gemcast_proto::id::KeyId;

/// A source that opened packets is known for this long.
const KNOWN_MS: u64 = 60_000;
/// How precisely that is remembered.
const REMEMBER_AGAIN_MS: u64 = 1_000;
/// After a failure, the packets of a key are watched for this long.
const WATCH_MS: u64 = 60_000;
/// A key is reported again after this long, and when a ban is due after this long.
const NOTICE_MS: u64 = 1_000;
const BAN_NOTICE_MS: u64 = 250;
/// Reports that wait to be taken; more come again.
const NOTICES_MAX: usize = 32;
const SETS: usize = 512;
const WAYS: usize = 4;

/// Failures of a known source. At 0.7 µs for an AEAD, 1 % of a core.
const KNOWN: Rate = Rate::new(10_000, 20_000);
/// Failures of a known source from which on a ban is asked for: the rest lasts until it is in force.
const KNOWN_ALARM: Rate = Rate::new(10_000, 15_000);
/// Failures of one stranger.
const STRANGER: Rate = Rate::new(64, 512);
/// Failures of all strangers under a key.
const STRANGERS: Rate = Rate::new(512, 2_048);
/// Packets that are dropped undecrypted under a key that nobody opens anything with.
const DROPPED: Rate = Rate::new(100, 1_000);

/// So many a second, and so many at once.
struct Rate {
    interval_us: u64,
    burst_us: u64,
}

impl Rate {
    const fn new(per_second: u64, burst: u64) -> Self {
        let interval_us = 1_000_000 / per_second;
        Self { interval_us, burst_us: burst * interval_us }
    }
}

/// What was spent of a [`Rate`]: the time when all of it will be given back (GCRA, ITU-T I.371).
#[derive(Clone, Copy, Default)]
struct Spent(u64);

impl Spent {
    fn has_room(self, rate: &Rate, now_us: u64) -> bool {
        self.0 < now_us + rate.burst_us
    }

    fn spend(&mut self, rate: &Rate, now_us: u64) {
        self.0 = self.0.max(now_us) + rate.interval_us;
    }
}

/// A source in the table.
#[derive(Clone, Copy, Default)]
struct Source {
    address: [u8; 16],
    key_id: u32,
    /// When it opened a packet last; 0 for never.
    opened_ms: u64,
    spent: Spent,
}

impl Source {
    fn is_known(&self, now_ms: u64) -> bool {
        self.opened_ms != 0 && self.opened_ms + KNOWN_MS > now_ms
    }
}

/// What is known of a key's packets, kept with the key.
#[derive(Default)]
pub struct Record {
    watched_until_ms: u64,
    /// The source that opened a packet last, and when it was remembered.
    opener: [u8; 16],
    opened_ms: u64,
    strangers: Spent,
    dropped: Spent,
    failed: u64,
    limited: u64,
    noticed_ms: u64,
}

impl Record {
    /// Whether the key's packets have to be admitted one by one: there was a failure not long ago.
    #[inline]
    pub fn is_watched(&self, now_ms: u64) -> bool {
        now_ms < self.watched_until_ms
    }
}

/// What control is to be told of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notice {
    /// The key.
    pub key_id: KeyId,
    /// Packets that did not decrypt since the last notice.
    pub failed: u64,
    /// Packets that were dropped undecrypted since the last notice.
    pub limited: u64,
    /// Source address of the last of them.
    pub source: [u8; 16],
    /// Whether the key is to be banned.
    pub ban: bool,
}

/// The police of one worker.
pub struct Police {
    sources: Box<[[Source; WAYS]]>,
    notices: Vec<Notice>,
}

impl Default for Police {
    fn default() -> Self {
        Self { sources: vec![[Source::default(); WAYS]; SETS].into(), notices: Vec::with_capacity(NOTICES_MAX) }
    }
}

impl Police {
    /// Whether a packet of a watched key may cost an AEAD. One that may not is counted.
    #[cold]
    pub fn admit(&mut self, record: &mut Record, key_id: KeyId, address: &[u8; 16], now_ms: u64) -> bool {
        let now_us = now_ms * 1000;
        let source = self.set(key_id, address).iter().find(|source| source.is(key_id, address));
        let known = source.is_some_and(|source| source.is_known(now_ms));
        let admitted = match source {
            Some(source) if known => source.spent.has_room(&KNOWN, now_us),
            Some(source) => source.spent.has_room(&STRANGER, now_us) && record.strangers.has_room(&STRANGERS, now_us),
            None => record.strangers.has_room(&STRANGERS, now_us),
        };
        if admitted {
            return true;
        }
        record.limited += 1;
        let useless = record.opened_ms + KNOWN_MS <= now_ms || record.opened_ms == 0;
        if useless && record.dropped.has_room(&DROPPED, now_us) {
            record.dropped.spend(&DROPPED, now_us);
        }
        let ban = known || (useless && !record.dropped.has_room(&DROPPED, now_us));
        self.notice(record, key_id, address, ban, now_ms);
        false
    }

    /// A packet did not decrypt.
    #[cold]
    pub fn failed(&mut self, record: &mut Record, key_id: KeyId, address: &[u8; 16], now_ms: u64) {
        let now_us = now_ms * 1000;
        record.watched_until_ms = now_ms + WATCH_MS;
        record.failed += 1;
        let Some(source) = self.place(key_id, address, false, now_ms) else {
            return record.strangers.spend(&STRANGERS, now_us);
        };
        if !source.is_known(now_ms) {
            source.spent.spend(&STRANGER, now_us);
            return record.strangers.spend(&STRANGERS, now_us);
        }
        source.spent.spend(&KNOWN, now_us);
        if !source.spent.has_room(&KNOWN_ALARM, now_us) {
            self.notice(record, key_id, address, true, now_ms);
        }
    }

    /// A packet decrypted: its source is known from now on.
    #[inline]
    pub fn opened(&mut self, record: &mut Record, key_id: KeyId, address: &[u8; 16], now_ms: u64) {
        if record.opener != *address || record.opened_ms + REMEMBER_AGAIN_MS <= now_ms || record.opened_ms == 0 {
            self.remember(record, key_id, address, now_ms);
        }
    }

    /// Out of line, but not rare: sources of one key may take turns.
    #[inline(never)]
    fn remember(&mut self, record: &mut Record, key_id: KeyId, address: &[u8; 16], now_ms: u64) {
        // The clock's zero is taken for never.
        let now_ms = now_ms.max(1);
        (record.opener, record.opened_ms) = (*address, now_ms);
        if let Some(source) = self.place(key_id, address, true, now_ms) {
            if !source.is_known(now_ms) {
                source.spent = Spent::default();
            }
            source.opened_ms = now_ms;
        }
    }

    /// Takes what control is to be told.
    pub fn notices(&mut self) -> impl Iterator<Item = Notice> {
        self.notices.drain(..)
    }

    /// Whether there is anything to tell.
    #[inline]
    pub fn has_notices(&self) -> bool {
        !self.notices.is_empty()
    }

    fn notice(&mut self, record: &mut Record, key_id: KeyId, source: &[u8; 16], ban: bool, now_ms: u64) {
        let pause = if ban { BAN_NOTICE_MS } else { NOTICE_MS };
        if (record.noticed_ms != 0 && record.noticed_ms + pause > now_ms) || self.notices.len() == NOTICES_MAX {
            return;
        }
        let (failed, limited) = (std::mem::take(&mut record.failed), std::mem::take(&mut record.limited));
        record.noticed_ms = now_ms.max(1);
        self.notices.push(Notice { key_id, failed, limited, source: *source, ban });
    }

    fn set(&mut self, key_id: KeyId, address: &[u8; 16]) -> &mut [Source; WAYS] {
        let [low, high] = [0, 8].map(|at| u64::from_ne_bytes(std::array::from_fn(|i| address[at + i])));
        // Who picks addresses to meet in one set only displaces strangers.
        let hash = (low ^ high.rotate_left(32) ^ u64::from(key_id.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &mut self.sources[(hash >> 40) as usize % SETS]
    }

    /// The place of a source: its own, or that of the one heard of least lately. One that is not known takes none from one
    /// that is.
    fn place(&mut self, key_id: KeyId, address: &[u8; 16], opened: bool, now_ms: u64) -> Option<&mut Source> {
        let set = self.set(key_id, address);
        if let Some(own) = set.iter().position(|source| source.is(key_id, address)) {
            return Some(&mut set[own]);
        }
        let least = set.iter_mut().min_by_key(|source| (source.is_known(now_ms), source.opened_ms, source.spent.0))?;
        if least.is_known(now_ms) && !opened {
            return None;
        }
        *least = Source { address: *address, key_id: key_id.0, ..Source::default() };
        Some(least)
    }
}

impl Source {
    fn is(&self, key_id: KeyId, address: &[u8; 16]) -> bool {
        self.key_id == key_id.0 && self.address == *address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemcast_proto::id::map_v4;

    const KEY: KeyId = KeyId(7);
    const START: u64 = 1_000_000;

    fn address(number: u32) -> [u8; 16] {
        map_v4(number.to_be_bytes())
    }

    /// Packets of a source that would not decrypt: how many cost an AEAD.
    fn flood(police: &mut Police, record: &mut Record, source: [u8; 16], packets: usize, now_ms: u64) -> usize {
        let mut tried = 0;
        for _ in 0..packets {
            if !record.is_watched(now_ms) || police.admit(record, KEY, &source, now_ms) {
                police.failed(record, KEY, &source, now_ms);
                tried += 1;
            }
        }
        tried
    }

    #[test]
    fn a_stranger_is_limited_and_gets_some_back_with_time() {
        let (mut police, mut record) = (Police::default(), Record::default());
        assert_eq!(flood(&mut police, &mut record, address(1), 10_000, START), 512);
        assert_eq!(flood(&mut police, &mut record, address(1), 10_000, START + 1000), 64);
        assert_eq!(flood(&mut police, &mut record, address(2), 10, START + 1000), 10, "another source has its own");
    }

    #[test]
    fn strangers_together_are_limited_however_many_addresses_they_use() {
        let (mut police, mut record) = (Police::default(), Record::default());
        let tried: usize = (0..50_000).map(|n| flood(&mut police, &mut record, address(n), 1, START)).sum();
        assert_eq!(tried, 2_048);
        assert_eq!(flood(&mut police, &mut record, address(99_999), 1, START + 10), 1, "a newcomer gets a turn");
    }

    #[test]
    fn a_known_source_is_not_hurt_by_strangers() {
        let (mut police, mut record) = (Police::default(), Record::default());
        police.opened(&mut record, KEY, &address(1), START);
        for n in 2..50_000 {
            flood(&mut police, &mut record, address(n), 1, START + 500);
        }
        assert!(police.admit(&mut record, KEY, &address(1), START + 500));
        let notices: Vec<_> = police.notices().collect();
        assert!(!notices.is_empty() && notices.iter().all(|notice| !notice.ban), "a ban would hurt it");
    }

    #[test]
    fn a_ban_is_asked_for_before_a_known_source_runs_out_of_its_budget() {
        let (mut police, mut record) = (Police::default(), Record::default());
        police.opened(&mut record, KEY, &address(1), START);
        assert_eq!(flood(&mut police, &mut record, address(1), 14_000, START), 14_000);
        assert!(!police.has_notices());
        assert_eq!(flood(&mut police, &mut record, address(1), 10_000, START), 6_000);
        let notices: Vec<_> = police.notices().collect();
        let asked = Notice { key_id: KEY, failed: 15_000, limited: 0, source: address(1), ban: true };
        assert_eq!(notices, [asked], "once, as long as it is the same moment");
    }

    #[test]
    fn a_key_nobody_opens_anything_with_is_banned_at_last() {
        let (mut police, mut record) = (Police::default(), Record::default());
        flood(&mut police, &mut record, address(1), 1_000, START);
        assert!(police.notices().all(|notice| !notice.ban));
        flood(&mut police, &mut record, address(1), 3_000, START + 300);
        assert!(police.notices().any(|notice| notice.ban));
    }

    #[test]
    fn known_sources_crowd_out_strangers_and_not_the_other_way_round() {
        let (mut police, mut record) = (Police::default(), Record::default());
        let known = |police: &mut Police, n| {
            let set = *police.set(KEY, &address(n));
            set.iter().any(|source| source.is(KEY, &address(n)) && source.is_known(START))
        };
        (1..500).for_each(|n| police.opened(&mut record, KEY, &address(n), START));
        let before = (1..500).filter(|&n| known(&mut police, n)).count();
        assert!(before > 400, "{before}");
        for n in 1_000..20_000 {
            police.failed(&mut record, KEY, &address(n), START);
        }
        assert_eq!((1..500).filter(|&n| known(&mut police, n)).count(), before);
    }
}
