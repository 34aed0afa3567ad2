//! How far a neighbour or a node is trusted: a score that faults lower and time restores, and the bans that follow.
//!
//! A score is 100 less the seconds of good behaviour that are owed: every fault costs some, and they are worked off by
//! themselves. Who falls to `BANNED_AT` is banned for a minute, the next time for two, and so on up to an hour; afterwards
//! it is heard again on probation, with half of a score.
//!
//! Whom a fault is held against:
//! - A *neighbour* (interface and address) for what it must have checked itself before it sent it: TLVs that are none, and
//!   objects whose signature is wrong. Not for what it honestly passes on: objects that ran out on the way, that are over
//!   somebody's quota, that contradict each other, or whose content only a newer version understands.
//! - A *node* for what its signature proves: two different objects under one name and version. A copy of a signed object
//!   proves it as well as the node's own word, so each contradiction is held against it once, however often it comes.
//! - Nobody for packets without a valid MAC, or that are not fresh: anyone on the link can send them from any address. They
//!   are counted, and what is told of them is limited; were they a reason for a ban, a stranger could have every honest
//!   neighbour banned. For the same reason what is signed wrongly counts for the node it names, but costs it nothing.

use crate::time::Instant;
use core::time::Duration;
use gemcast_proto::wire::gem::ObjectName;
use std::collections::BTreeMap;

/// A score that nothing is held against.
const FULL: Duration = Duration::from_secs(100);
/// At this score and below, a ban follows.
const BANNED_AT: Duration = Duration::from_secs(20);
/// Below this score one is suspected,
const SUSPECTED_BELOW: Duration = Duration::from_secs(60);
/// until this one is reached again.
const TRUSTED_FROM: Duration = Duration::from_secs(80);
/// Score after a ban.
const PROBATION: Duration = Duration::from_secs(50);
/// The first ban; doubled each time.
const FIRST_BAN: Duration = Duration::from_secs(60);
/// The longest one that is not the operator's.
const LONGEST_BAN: Duration = Duration::from_secs(3600);
/// After so long without another one, earlier bans are forgotten, and what was counted with them.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(4 * 3600);
/// Neighbours, or nodes, that something is held against at a time.
const MAX_ENTRIES: usize = 4096;
/// Contradictions of one node that are remembered, so that none of them counts twice; a few suffice for a ban.
const MAX_CONTRADICTIONS: usize = 64;

/// Something that should not have been.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// A TLV that is none, in a packet that is authentic.
    Malformed,
    /// An object that its origin did not sign.
    Forged,
    /// An object over the limit of its neighbour. An honest one may exceed it for a while, when a large table meets an
    /// empty one, so that only what goes on and on weighs something.
    Excess,
    /// A request over the limit of its neighbour; honest ones come nowhere near it.
    ExcessRequest,
    /// Two objects signed under one name and version.
    Equivocation,
    /// A packet that is not authentic, or an object that somebody else signed in this name.
    Unproven,
}

impl Fault {
    /// What it costs.
    fn cost(self) -> Duration {
        match self {
            Self::Malformed => Duration::from_secs(1),
            Self::Forged => Duration::from_secs(10),
            Self::Excess => Duration::from_micros(200),
            Self::ExcessRequest => Duration::from_millis(20),
            Self::Equivocation => Duration::from_secs(45),
            Self::Unproven => Duration::ZERO,
        }
    }
}

/// What was counted of somebody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// TLVs that are none.
    pub malformed: u64,
    /// Objects that their origin did not sign.
    pub forged: u64,
    /// Objects and requests over a limit.
    pub excess: u64,
    /// Names and versions under which two different objects were signed.
    pub equivocations: u64,
    /// Packets that were not authentic, and objects that somebody else signed in this name: anyone can send such.
    pub unproven: u64,
    /// Packets that were not looked at because of a ban.
    pub ignored: u64,
}

impl Faults {
    fn count(&mut self, fault: Fault) {
        *match fault {
            Fault::Malformed => &mut self.malformed,
            Fault::Forged => &mut self.forged,
            Fault::Excess | Fault::ExcessRequest => &mut self.excess,
            Fault::Equivocation => &mut self.equivocations,
            Fault::Unproven => &mut self.unproven,
        } += 1;
    }
}

/// A ban in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ban {
    /// Whether an operator said so; else faults led to it.
    pub by_operator: bool,
    /// Its end; `None`: when an operator ends it.
    pub until: Option<Instant>,
}

/// What became of a reputation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// It is suspected now.
    Suspected,
    /// It is banned now, for so long.
    Banned(Duration),
}

/// One reputation.
#[derive(Clone, Default)]
pub(crate) struct Reputation {
    /// When everything will have been made good.
    good_at: Instant,
    suspected: bool,
    ban: Option<Ban>,
    /// Bans in a row for faults.
    bans: u32,
    /// When this is worth nothing any more.
    forgotten_at: Instant,
    faults: Faults,
    contradictions: Vec<(ObjectName, u64)>,
}

impl Reputation {
    /// What there is left of a full score.
    fn left(&self, now: Instant) -> Duration {
        FULL.saturating_sub(self.good_at - now)
    }

    /// The score, 0 to 100.
    pub(crate) fn score(&self, now: Instant) -> u8 {
        u8::try_from(self.left(now).as_secs()).expect("at most 100")
    }

    pub(crate) fn faults(&self) -> Faults {
        self.faults
    }

    pub(crate) fn ban(&self) -> Option<Ban> {
        self.ban
    }

    pub(crate) fn is_suspected(&self) -> bool {
        self.suspected
    }

    /// Bans in a row for faults.
    pub(crate) fn bans(&self) -> u32 {
        self.bans
    }

    fn fault(&mut self, now: Instant, fault: Fault) -> Option<Change> {
        self.faults.count(fault);
        self.forgotten_at = self.forgotten_at.max(now + FORGOTTEN_AFTER);
        if self.ban.is_some() || fault.cost().is_zero() {
            return None;
        }
        self.good_at = (self.good_at.max(now) + fault.cost()).min(now + FULL);
        let left = self.left(now);
        if left <= BANNED_AT {
            let lasts = FIRST_BAN.saturating_mul(1 << self.bans.min(16)).min(LONGEST_BAN);
            self.bans = self.bans.saturating_add(1);
            self.ban = Some(Ban { by_operator: false, until: Some(now + lasts) });
            return Some(Change::Banned(lasts));
        }
        let newly = left < SUSPECTED_BELOW && !self.suspected;
        self.suspected |= newly;
        newly.then_some(Change::Suspected)
    }

    /// Two objects were signed under this name and version. `None` when that is known already.
    fn contradicts(&mut self, now: Instant, name: ObjectName, version: u64) -> Option<Change> {
        if self.contradictions.contains(&(name, version)) {
            return None;
        }
        if self.contradictions.len() == MAX_CONTRADICTIONS {
            self.contradictions.remove(0);
        }
        self.contradictions.push((name, version));
        self.fault(now, Fault::Equivocation)
    }

    /// When time changes something.
    fn next_deadline(&self) -> Option<Instant> {
        let trusted_at = Instant(self.good_at.0.saturating_sub(FULL.saturating_sub(TRUSTED_FROM).as_micros() as u64));
        match self.ban {
            Some(ban) => ban.until,
            None => self.suspected.then_some(trusted_at),
        }
    }

    /// Time passed. Returns whether a ban is over.
    fn age(&mut self, now: Instant) -> bool {
        let over = self.ban.is_some_and(|ban| ban.until.is_some_and(|until| until <= now));
        if over {
            self.ban = None;
            self.suspected = true;
            self.good_at = now + FULL.saturating_sub(PROBATION);
            self.forgotten_at = now + FORGOTTEN_AFTER;
        }
        self.suspected &= self.left(now) < TRUSTED_FROM;
        over
    }
}

/// Reputations of those that something is, or was, held against.
pub(crate) struct Reputations<K>(BTreeMap<K, Reputation>);

impl<K> Default for Reputations<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy> Reputations<K> {
    pub(crate) fn get(&self, who: &K) -> Option<&Reputation> {
        self.0.get(who)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &Reputation)> {
        self.0.iter()
    }

    pub(crate) fn is_banned(&self, who: &K) -> bool {
        self.0.get(who).is_some_and(|one| one.ban.is_some())
    }

    /// Who is banned.
    pub(crate) fn banned(&self) -> impl Iterator<Item = (K, Ban)> {
        self.0.iter().filter_map(|(who, one)| Some((*who, one.ban?)))
    }

    /// Holds a fault against somebody.
    pub(crate) fn fault(&mut self, now: Instant, who: K, fault: Fault) -> Option<Change> {
        self.entry(now, who)?.fault(now, fault)
    }

    /// Holds a contradiction against somebody, once.
    pub(crate) fn contradicts(&mut self, now: Instant, who: K, name: ObjectName, version: u64) -> Option<Change> {
        self.entry(now, who)?.contradicts(now, name, version)
    }

    /// Counts a packet that a ban kept out. `false` when there is no ban.
    pub(crate) fn ignores(&mut self, who: &K) -> bool {
        let banned = self.0.get_mut(who).filter(|one| one.ban.is_some());
        banned.map(|one| one.faults.ignored += 1).is_some()
    }

    /// Bans somebody because an operator says so. `false`: more are banned already than can be.
    pub(crate) fn ban(&mut self, now: Instant, who: K, until: Option<Instant>) -> bool {
        let Some(one) = self.entry(now, who) else { return false };
        one.ban = Some(Ban { by_operator: true, until });
        true
    }

    /// Forgives somebody everything. `true` when that ended a ban.
    pub(crate) fn forgive(&mut self, who: &K) -> bool {
        self.0.remove(who).is_some_and(|one| one.ban.is_some())
    }

    /// When time changes something.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().filter_map(Reputation::next_deadline).min()
    }

    /// Time passed: whose bans are over.
    pub(crate) fn age(&mut self, now: Instant) -> Vec<K> {
        let over = self.0.iter_mut().filter_map(|(who, one)| one.age(now).then_some(*who)).collect();
        self.0.retain(|_, one| one.ban.is_some() || one.forgotten_at > now);
        over
    }

    /// When all places are taken, the one with the best score makes room, but nobody who is banned.
    fn entry(&mut self, now: Instant, who: K) -> Option<&mut Reputation> {
        if self.0.len() >= MAX_ENTRIES && !self.0.contains_key(&who) {
            let harmless = self.0.iter().filter(|(_, one)| one.ban.is_none());
            let (&best, _) = harmless.min_by_key(|(_, one)| one.good_at)?;
            self.0.remove(&best);
        }
        let fresh = || Reputation { forgotten_at: now + FORGOTTEN_AFTER, ..Reputation::default() };
        Some(self.0.entry(who).or_insert_with(fresh))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemcast_proto::id::NodeId;
    use gemcast_proto::wire::gem::ObjectKind;

    const START: Instant = Instant(1_000_000_000);

    fn at(seconds: u64) -> Instant {
        START + Duration::from_secs(seconds)
    }

    fn faults(all: &mut Reputations<u8>, now: Instant, fault: Fault, count: usize) -> Vec<Change> {
        (0..count).filter_map(|_| all.fault(now, 1, fault)).collect()
    }

    #[test]
    fn f14_faults_lower_the_score_and_time_restores_it() {
        let mut all = Reputations::default();
        assert_eq!(faults(&mut all, START, Fault::Malformed, 30), []);
        assert_eq!(all.get(&1).unwrap().score(START), 70);
        assert_eq!(all.get(&1).unwrap().score(at(12)), 82);
        assert_eq!(all.get(&1).unwrap().score(at(1000)), 100);
        // One fault a second is made good as fast as it comes.
        for second in 1000..3000 {
            assert_eq!(faults(&mut all, at(second), Fault::Malformed, 1), []);
        }
        assert_eq!(all.get(&1).unwrap().faults().malformed, 2030);
    }

    #[test]
    fn f14_suspicion_and_trust_have_different_thresholds() {
        let mut all = Reputations::default();
        assert_eq!(faults(&mut all, START, Fault::Forged, 5), [Change::Suspected]);
        assert_eq!(all.next_deadline(), Some(at(30)));
        all.age(at(29));
        assert!(all.get(&1).unwrap().is_suspected(), "at 79 points, though one that never fell is trusted at 60");
        all.age(at(30));
        assert!(!all.get(&1).unwrap().is_suspected());
    }

    #[test]
    fn f14_bans_double_up_to_an_hour_and_are_forgotten_one_day() {
        let mut all = Reputations::default();
        let mut now = START;
        let mut lasted = Vec::new();
        for _ in 0..9 {
            let changes = faults(&mut all, now, Fault::Forged, 10);
            let Some(Change::Banned(lasts)) = changes.last() else { panic!("{changes:?}") };
            lasted.push(lasts.as_secs());
            assert!(all.ignores(&1));
            assert_eq!(all.age(now + (*lasts - Duration::from_micros(1))), []);
            now = now + *lasts;
            assert_eq!(all.age(now), [1]);
            assert_eq!(all.get(&1).unwrap().score(now), 50, "on probation");
            assert!(!all.ignores(&1));
        }
        assert_eq!(lasted, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        all.age(now + FORGOTTEN_AFTER);
        assert!(all.get(&1).is_none());
        assert_eq!(faults(&mut all, now + FORGOTTEN_AFTER, Fault::Forged, 8).last(), Some(&Change::Banned(FIRST_BAN)));
    }

    #[test]
    fn f14_what_anyone_can_send_in_anothers_name_costs_that_one_nothing() {
        let mut all = Reputations::default();
        assert_eq!(faults(&mut all, START, Fault::Unproven, 100_000), []);
        assert_eq!((all.get(&1).unwrap().score(START), all.get(&1).unwrap().faults().unproven), (100, 100_000));
    }

    #[test]
    fn f14_a_contradiction_counts_once_however_often_it_is_shown() {
        let mut all = Reputations::default();
        let name = ObjectName { origin: NodeId([1; 8]), kind: ObjectKind::SEK, id: 7 };
        assert_eq!(all.contradicts(START, 1, name, 5), Some(Change::Suspected));
        for _ in 0..1000 {
            assert_eq!(all.contradicts(START, 1, name, 5), None);
        }
        assert_eq!(all.get(&1).unwrap().score(START), 55);
        assert_eq!(all.contradicts(START, 1, name, 6), Some(Change::Banned(FIRST_BAN)));
    }

    #[test]
    fn f14_a_large_table_that_meets_an_empty_one_is_no_flood() {
        let mut all = Reputations::default();
        // 262,144 objects at 12,800/s, where 5,000/s are taken.
        for tick in 0..20_000 {
            let now = START + Duration::from_millis(tick);
            assert_eq!(faults(&mut all, now, Fault::Excess, 8), []);
        }
        assert_eq!(faults(&mut all, at(60), Fault::Excess, 500_000).len(), 2, "suspected, then banned");
    }

    #[test]
    fn f14_an_operators_ban_lasts_and_only_an_operator_forgives() {
        let mut all = Reputations::default();
        assert!(all.ban(START, 1, None));
        assert_eq!(all.age(at(1_000_000)), []);
        assert!(all.is_banned(&1) && all.get(&1).unwrap().ban().unwrap().by_operator);
        assert!(all.forgive(&1) && !all.is_banned(&1) && !all.forgive(&1));
        assert!(all.ban(START, 1, Some(at(5))));
        assert_eq!(all.age(at(5)), [1]);
    }

    #[test]
    fn f14_the_best_makes_room_and_the_banned_stay() {
        let mut all = Reputations::default();
        for who in 0..MAX_ENTRIES {
            all.fault(START, who, if who == 77 { Fault::Unproven } else { Fault::Malformed });
        }
        all.ban(START, 5, None);
        all.fault(START, MAX_ENTRIES, Fault::Malformed);
        assert!(all.get(&77).is_none() && all.is_banned(&5) && all.get(&MAX_ENTRIES).is_some());
    }
}
