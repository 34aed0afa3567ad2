//! Redundant uplinks: a stream that comes in by several untrusted interfaces is delivered once, and loses nothing when
//! one of them fails. Which is why nobody would notice: here it is noticed.
//!
//! A leg is lost when it delivers nothing any more while another goes on, and it did deliver copies of what came by
//! another. Interfaces that carry different streams are no legs of each other.

use gemcast_proto::link::{InterfaceStats, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Copies by other legs may be counted this much after a leg's last packet.
const STRAGGLERS: Duration = Duration::from_millis(1500);
/// Another leg has to deliver for this long alone, unless the kernel says that the link is down.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// A lost leg has to deliver for this long: one that flaps is not announced each time.
const RETURNED_AFTER: Duration = Duration::from_secs(2);

/// What became of a leg.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The interface delivers nothing any more: there is one copy less.
    Lost(String),
    /// It delivers again.
    Returned(String),
}

#[derive(Default)]
struct Leg {
    /// Packets that were the first of their copies, and later copies, so far.
    opened: u64,
    copies: u64,
    /// When it delivered last.
    delivered_at: Option<Instant>,
    /// Whether its packets had copies when it was not alone last: for certain, or perhaps, being one of three or more of
    /// which some had.
    copied: bool,
    perhaps_copied: bool,
    /// Whether the kernel says that nothing can arrive by it.
    down: bool,
    lost: bool,
    /// When it delivered first after it was lost.
    back_at: Option<Instant>,
}

impl Leg {
    fn lose(&mut self) {
        (self.lost, self.back_at) = (true, None);
    }
}

/// The untrusted interfaces.
#[derive(Default)]
pub struct Legs {
    legs: BTreeMap<String, Leg>,
    copies_at: Option<Instant>,
}

impl Legs {
    /// Takes in the interfaces whose link is down: a leg among them is lost at once.
    pub fn observe_links(&mut self, now: Instant, down: &BTreeSet<&str>) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, leg) in &mut self.legs {
            let went_down = !std::mem::replace(&mut leg.down, down.contains(name.as_str())) && leg.down;
            let delivered = leg.delivered_at.is_some_and(|at| now.saturating_duration_since(at) < LOST_AFTER);
            if went_down && leg.copied && delivered && !leg.lost {
                leg.lose();
                changes.push(Change::Lost(name.clone()));
            }
        }
        changes
    }

    /// Takes in counters as they are now.
    pub fn observe<'a>(
        &mut self,
        now: Instant,
        interfaces: impl IntoIterator<Item = &'a InterfaceStats>,
    ) -> Vec<Change> {
        let mut moved = self.count(interfaces);
        let any_copies = moved.values().any(|(_, copies)| *copies > 0);
        if any_copies {
            self.copies_at = Some(now);
        }
        // What a link delivered before it went down may be counted after that.
        moved.retain(|name, (opened, copies)| *opened + *copies > 0 && !self.legs[name].down);
        let delivering = moved.len();
        let mut changes = Vec::new();
        for (name, (_, copies)) in moved {
            let leg = self.legs.get_mut(&name).expect("entered when it was counted");
            leg.delivered_at = Some(now);
            // While it is alone nothing shows whether it has others.
            if delivering > 1 {
                leg.copied = copies > 0 || (any_copies && delivering == 2);
                leg.perhaps_copied = any_copies;
            }
            let back_at = *leg.back_at.get_or_insert(now);
            if leg.lost && now.saturating_duration_since(back_at) >= RETURNED_AFTER {
                leg.lost = false;
                changes.push(Change::Returned(name));
            }
        }
        let newest = self.legs.values().filter_map(|leg| leg.delivered_at).max();
        for (name, leg) in self.legs.iter_mut().filter(|(_, leg)| !leg.lost) {
            let (Some(delivered_at), Some(newest)) = (leg.delivered_at, newest) else { continue };
            // Copies of the leg's own last packets are counted a moment after them.
            let copies_ended = self.copies_at.is_some_and(|at| at <= delivered_at + STRAGGLERS);
            let copied = leg.copied || (leg.perhaps_copied && copies_ended);
            if copied && newest.saturating_duration_since(delivered_at) >= LOST_AFTER {
                leg.lose();
                changes.push(Change::Lost(name.clone()));
            }
        }
        changes
    }

    /// First copies and later ones since the last time, by interface. Those that are no longer served are forgotten.
    fn count<'a>(&mut self, interfaces: impl IntoIterator<Item = &'a InterfaceStats>) -> BTreeMap<String, (u64, u64)> {
        let untrusted = interfaces.into_iter().filter(|stats| stats.role() == Role::Untrusted);
        let counts: BTreeMap<&str, (u64, u64)> =
            untrusted.map(|stats| (stats.name.as_str(), (stats.opened, stats.copies))).collect();
        self.legs.retain(|name, _| counts.contains_key(name.as_str()));
        let mut moved = BTreeMap::new();
        for (name, (opened, copies)) in counts {
            let first = !self.legs.contains_key(name);
            let leg = self.legs.entry(name.to_owned()).or_default();
            // Counters of another data plane begin anew.
            let restarted = opened < leg.opened || copies < leg.copies;
            let grown = if first || restarted { (0, 0) } else { (opened - leg.opened, copies - leg.copies) };
            (leg.opened, leg.copies) = (opened, copies);
            moved.insert(name.to_owned(), grown);
        }
        moved
    }

    /// The legs that are lost.
    pub fn lost(&self) -> impl Iterator<Item = &str> {
        self.legs.iter().filter(|(_, leg)| leg.lost).map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(name: &str, (opened, copies): (u64, u64)) -> InterfaceStats {
        InterfaceStats { name: name.into(), role: Role::Untrusted.into(), opened, copies, ..Default::default() }
    }

    /// One sample a second of each interface's (opened, copies); the changes by second.
    fn run(samples: &[&[(u64, u64)]]) -> Vec<(usize, Change)> {
        let (mut legs, start) = (Legs::default(), Instant::now());
        let mut changes = Vec::new();
        for (second, sample) in samples.iter().enumerate() {
            let interfaces: Vec<_> =
                ["wan0", "wan1", "wan2"].into_iter().zip(*sample).map(|(n, c)| stats(n, *c)).collect();
            let now = start + Duration::from_secs(second as u64);
            changes.extend(legs.observe(now, &interfaces).into_iter().map(|change| (second, change)));
        }
        changes
    }

    #[test]
    fn either_leg_is_missed_and_welcomed_back() {
        let both: [&[(u64, u64)]; 2] = [&[(0, 0), (0, 0)], &[(90, 10), (10, 90)]];
        let slow_dies: [&[(u64, u64)]; 6] = [
            &[(190, 10), (10, 90)],
            &[(290, 10), (10, 90)],
            &[(390, 10), (10, 90)],
            &[(490, 10), (10, 190)],
            &[(590, 10), (10, 290)],
            &[(690, 10), (10, 390)],
        ];
        let expected = [(4, Change::Lost("wan1".into())), (7, Change::Returned("wan1".into()))];
        assert_eq!(run(&[&both[..], &slow_dies[..]].concat()), expected);
        let straggling: [&[(u64, u64)]; 5] = [
            &[(0, 0), (0, 0)],
            &[(99, 0), (0, 99)],
            &[(99, 0), (9, 100)],
            &[(99, 0), (99, 100)],
            &[(99, 0), (199, 100)],
        ];
        assert_eq!(run(&straggling), [(4, Change::Lost("wan0".into()))], "the copy of its last packet came after it");
        let one_then_the_other: [&[(u64, u64)]; 8] = [
            &[(0, 0), (0, 0)],
            &[(99, 0), (0, 99)],
            &[(99, 0), (90, 99)],
            &[(99, 0), (190, 99)],
            &[(99, 0), (290, 99)],
            &[(199, 0), (290, 99)],
            &[(299, 0), (290, 99)],
            &[(399, 0), (290, 99)],
        ];
        let expected = [Change::Lost("wan0".into()), Change::Returned("wan0".into()), Change::Lost("wan1".into())];
        assert_eq!(run(&one_then_the_other), [4, 7, 7].into_iter().zip(expected).collect::<Vec<_>>());
        let always_first: [&[(u64, u64)]; 5] = [
            &[(0, 0), (0, 0)],
            &[(100, 0), (0, 100)],
            &[(100, 0), (100, 100)],
            &[(100, 0), (200, 100)],
            &[(100, 0), (300, 100)],
        ];
        assert_eq!(run(&always_first), [(4, Change::Lost("wan0".into()))], "it had no copy of its own");
    }

    #[test]
    fn a_leg_whose_link_goes_down_is_lost_at_once() {
        let (mut legs, start) = (Legs::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let observe = |legs: &mut Legs, second, first, other| {
            legs.observe(at(second), &[stats("wan0", first), stats("wan1", other)])
        };
        observe(&mut legs, 0, (0, 0), (0, 0));
        observe(&mut legs, 1, (100, 0), (0, 100));
        let down = BTreeSet::from(["wan0"]);
        assert_eq!(legs.observe_links(at(1), &down), [Change::Lost("wan0".into())]);
        assert_eq!(legs.observe_links(at(1), &down), [], "once");
        assert_eq!(observe(&mut legs, 2, (150, 0), (50, 150)), [], "counted before the link went down");
        assert_eq!(legs.observe_links(at(2), &BTreeSet::new()), [], "up, but nothing arrives yet");
        assert_eq!(legs.lost().collect::<Vec<_>>(), ["wan0"]);
        for second in 3..5 {
            assert_eq!(observe(&mut legs, second, (150, 100 * second), (100 * second, 150)), []);
        }
        assert_eq!(observe(&mut legs, 5, (150, 500), (500, 150)), [Change::Returned("wan0".into())]);
        assert_eq!(legs.observe_links(at(100), &down), [], "the streams ended long before");
    }

    #[test]
    fn silence_and_interfaces_with_other_streams_are_no_loss() {
        let all_end: [&[(u64, u64)]; 6] = [
            &[(0, 0), (0, 0)],
            &[(90, 10), (10, 90)],
            &[(90, 10), (10, 90)],
            &[(90, 10), (10, 90)],
            &[(90, 10), (10, 90)],
            &[(90, 10), (10, 90)],
        ];
        assert_eq!(run(&all_end), []);
        let apart: [&[(u64, u64)]; 6] = [
            &[(0, 0), (0, 0)],
            &[(100, 0), (100, 0)],
            &[(200, 0), (100, 0)],
            &[(300, 0), (100, 0)],
            &[(400, 0), (100, 0)],
            &[(500, 0), (100, 0)],
        ];
        assert_eq!(run(&apart), []);
        let third: [&[(u64, u64)]; 6] = [
            &[(0, 0), (0, 0), (0, 0)],
            &[(99, 0), (0, 99), (9, 0)],
            &[(199, 0), (0, 199), (9, 0)],
            &[(299, 0), (0, 299), (9, 0)],
            &[(399, 0), (0, 399), (9, 0)],
            &[(499, 0), (0, 499), (9, 0)],
        ];
        assert_eq!(run(&third), [], "the third carries a stream of its own, which ended");
        let restarted: [&[(u64, u64)]; 3] = [&[(0, 0), (0, 0)], &[(90, 10), (10, 90)], &[(5, 5), (5, 5)]];
        assert_eq!(run(&restarted), []);
    }
}
