//! A Babel neighbour: how well it is heard, how well it hears us, what the link costs (RFC 8966 §3.4, appendix A).

use crate::config::{DelayMetric, Detection};
use crate::detector::{Change, Detector, FLAPPING_COST, Lateness, State};
use crate::mac::Freshness;
use crate::rate::Bucket;
use crate::route::Destination;
use crate::sync::PeerTable;
use crate::time::Instant;
use crate::timestamp::RoundTrip;
use core::time::Duration;
use gemcast_proto::wire::babel::{INFINITY, Seqno};
use std::collections::BTreeSet;

/// Cost of a wired link that works (RFC 8966 appendix A.2.1).
const WIRED_COST: u16 = 96;
/// Step of the penalty for delay.
const PENALTY_STEP: u16 = 8;
/// Hellos that may be missing between two before the neighbour counts as restarted (appendix A.1).
const RESTART_DISTANCE: u16 = 16;
/// A neighbour that owes us no Hello, because it never sent one or announced none to follow (an interval of zero), is
/// forgotten after this long.
const UNSCHEDULED_LIFETIME: Duration = Duration::from_secs(30);

/// Which of the last sixteen Hellos of one series came in.
#[derive(Clone, Copy, Default)]
pub(crate) struct History {
    /// Latest in the highest bit.
    pub(crate) bits: u16,
    expected: Seqno,
    /// The newest that came in, and when.
    latest: Option<(Seqno, Instant)>,
    interval: Duration,
    deadline: Option<Instant>,
    lateness: Lateness,
}

impl History {
    /// A Hello came in (appendix A.1). One that another has overtaken on the way is entered where it belongs.
    pub(crate) fn received(&mut self, now: Instant, seqno: Seqno, interval: Duration, tolerance: u8) {
        let since_latest = self.latest.map(|(latest, at)| (seqno.distance_from(latest), now - at));
        if let Some((distance, after)) = since_latest.filter(|_| self.heard_lately()) {
            let due = self.interval * u32::from(distance.max(0).unsigned_abs());
            let overtaken = self.interval * u32::from(distance.min(0).unsigned_abs());
            if distance.unsigned_abs() <= RESTART_DISTANCE {
                self.lateness.observe(after + overtaken, due, self.interval * u32::from(tolerance));
            }
        }
        let distance = seqno.distance_from(self.expected);
        if self.bits != 0 && since_latest.is_some_and(|(since, _)| since <= 0) && distance >= -16 {
            let place = u32::from(distance.unsigned_abs()).saturating_sub(1);
            self.bits |= 0x8000_u16.checked_shr(place).unwrap_or(0);
            return;
        }
        self.latest = Some((seqno, now));
        if self.bits == 0 || since_latest.is_none() || distance.unsigned_abs() > RESTART_DISTANCE {
            self.bits = 0;
        } else if distance < 0 {
            // The neighbour lengthened its interval, and we counted misses that were none.
            self.bits = self.bits.checked_shl(u32::from(distance.unsigned_abs())).unwrap_or(0);
        } else {
            self.bits = self.bits.checked_shr(u32::from(distance.unsigned_abs())).unwrap_or(0);
        }
        self.bits = (self.bits >> 1) | 0x8000;
        self.expected = seqno.next();
        if !interval.is_zero() {
            self.interval = interval;
            self.deadline = Some(now + interval + interval / 2 + self.lateness.stretch());
        }
    }

    /// The next Hello is overdue: counts it as missed.
    fn missed(&mut self, now: Instant) {
        self.bits >>= 1;
        self.expected = self.expected.next();
        self.deadline = (self.bits != 0).then(|| now + self.interval);
    }

    /// Not all of the last four came in.
    pub(crate) fn is_lossy(&self) -> bool {
        self.bits >> 12 != 0b1111
    }

    /// Any of the last three came in.
    fn heard_lately(&self) -> bool {
        self.bits >> 13 != 0
    }

    /// How many in a row did not come in; `None` when none is promised.
    fn missed_in_a_row(&self) -> Option<u32> {
        (!self.interval.is_zero()).then(|| self.bits.leading_zeros())
    }

    /// Two of the last three came in.
    fn two_of_three(&self) -> bool {
        (self.bits >> 13).count_ones() >= 2
    }
}

/// RFC 8966 §3.4.2 and appendix B: held for 3.5 times the announced interval.
fn ihu_lifetime(interval: Duration) -> Duration {
    interval * 7 / 2
}

/// One neighbour on one interface.
pub(crate) struct Neighbour {
    pub(crate) freshness: Freshness,
    pub(crate) multicast: History,
    pub(crate) unicast: History,
    pub(crate) detector: Detector,
    /// A suspicion was told, so that its end is to be told, too.
    pub(crate) suspicion_told: bool,
    /// What was reached by way of it when it became suspect.
    pub(crate) carried: BTreeSet<Destination>,
    pub(crate) up_since: Instant,
    /// Its multicast does not arrive, though it is up.
    pub(crate) misses_multicast: bool,
    /// It said that our multicast does not arrive there, and that is to be believed until then.
    deaf_until: Option<Instant>,
    /// What goes to the multicast group goes to it by unicast, too.
    pub(crate) by_unicast: bool,
    /// Cost it has receiving from us, from its last IHU.
    pub(crate) txcost: u16,
    ihu_deadline: Option<Instant>,
    /// An IHU is to go out with the next Hello, whether or not it is its turn.
    pub(crate) ihu_wanted: bool,
    pub(crate) last_heard: Instant,
    pub(crate) round_trip: RoundTrip,
    pub(crate) peer_table: PeerTable,
    /// Limits its requests for the whole route table.
    pub(crate) dumps: Bucket,
    /// Limits its requests about single routes.
    pub(crate) route_requests: Bucket,
    /// Limits its requests for acknowledgements.
    pub(crate) acks: Bucket,
    /// Cost of the link that the selected routes were chosen with.
    pub(crate) applied_cost: u16,
    /// Our unicast Hellos to it, when they are sent and it is no configured peer.
    pub(crate) unicast_seqno: Seqno,
    wireless: bool,
}

impl Neighbour {
    /// `freshness` says what its packets are to prove.
    pub(crate) fn new(now: Instant, wireless: bool, freshness: Freshness) -> Self {
        Self {
            freshness,
            multicast: History::default(),
            unicast: History::default(),
            detector: Detector::default(),
            suspicion_told: false,
            carried: BTreeSet::new(),
            up_since: now,
            misses_multicast: false,
            deaf_until: None,
            by_unicast: false,
            txcost: INFINITY,
            ihu_deadline: None,
            ihu_wanted: true,
            last_heard: now,
            round_trip: RoundTrip::default(),
            peer_table: PeerTable::default(),
            dumps: Bucket::default(),
            route_requests: Bucket::default(),
            acks: Bucket::default(),
            applied_cost: INFINITY,
            unicast_seqno: Seqno(0),
            wireless,
        }
    }

    /// Proven fresh, and not silent for too long.
    pub(crate) fn is_up(&self) -> bool {
        self.detector.is_up()
    }

    /// Hellos in a row that did not come in: of the series that lacks fewest, or all, when none is promised.
    pub(crate) fn missed(&self) -> u32 {
        let series = [self.multicast.missed_in_a_row(), self.unicast.missed_in_a_row()];
        series.into_iter().flatten().min().unwrap_or(0)
    }

    /// How much later than promised its Hellos come.
    pub(crate) fn lateness(&self) -> Duration {
        let [multicast, unicast] = [&self.multicast, &self.unicast].map(|history| history.lateness.stretch());
        multicast.max(unicast)
    }

    /// Its packets are of a new incarnation, which counts its Hellos anew.
    pub(crate) fn restarted(&mut self) {
        for history in [&mut self.multicast, &mut self.unicast] {
            (history.latest, history.lateness) = (None, Lateness::default());
        }
    }

    /// Looks whether its multicast arrives. A neighbour that has just come up has `grace` for its first Hello.
    pub(crate) fn review_multicast(&mut self, now: Instant, grace: Duration) {
        self.misses_multicast = if self.misses_multicast {
            !self.multicast.two_of_three()
        } else {
            !self.multicast.heard_lately() && now - self.up_since >= grace
        };
    }

    /// Whether it said lately that our multicast does not arrive there.
    pub(crate) fn is_deaf(&self, now: Instant) -> bool {
        self.deaf_until.is_some_and(|until| now < until)
    }

    /// A unicast IHU says whether our multicast arrives there.
    pub(crate) fn received_deafness(&mut self, now: Instant, deaf: bool, interval: Duration) {
        self.deaf_until = deaf.then(|| now + ihu_lifetime(interval));
    }

    /// Up, and routes by it may be used.
    pub(crate) fn is_linked_both_ways(&self) -> bool {
        self.is_up() && self.base_cost() != INFINITY
    }

    /// Cost of receiving from it, as our IHUs tell it (appendix A.2).
    pub(crate) fn rxcost(&self) -> u16 {
        if self.wireless {
            // A series that is not sent at all says nothing.
            etx_rxcost(self.multicast.bits).min(etx_rxcost(self.unicast.bits))
        } else if self.multicast.two_of_three() || self.unicast.two_of_three() {
            WIRED_COST
        } else {
            INFINITY
        }
    }

    /// Cost of the link in both directions, without the penalty for delay.
    pub(crate) fn base_cost(&self) -> u16 {
        let (rxcost, txcost) = (self.rxcost(), self.txcost);
        if rxcost == INFINITY || txcost == INFINITY {
            return INFINITY;
        }
        if !self.wireless {
            return txcost;
        }
        // Appendix A.2.2: cost = MAX(txcost, 256) * rxcost / 256.
        let cost = u32::from(txcost.max(256)) * u32::from(rxcost) / 256;
        u16::try_from(cost).unwrap_or(INFINITY - 1).min(INFINITY - 1)
    }

    /// Cost of the link, with the penalties for its delay (RFC 9616 §3.4) and for deaths. That of a dead one is infinite
    /// (RFC 8966 appendix A.2 leaves it to us).
    pub(crate) fn cost(&self, delay: Option<DelayMetric>) -> u16 {
        if !self.is_up() {
            return INFINITY;
        }
        let cost = self.delayed_cost(delay);
        if cost == INFINITY || !self.detector.is_damped() {
            return cost;
        }
        cost.saturating_add(FLAPPING_COST).min(INFINITY - 1)
    }

    fn delayed_cost(&self, delay: Option<DelayMetric>) -> u16 {
        let (base, rtt) = (self.base_cost(), self.round_trip.smoothed());
        let (Some(delay), Some(rtt), false) = (delay, rtt, base == INFINITY) else { return base };
        let range = delay.max.saturating_sub(delay.min).as_micros().max(1);
        let above = rtt.saturating_sub(delay.min).as_micros().min(range);
        let penalty = u16::try_from(u128::from(delay.penalty) * above / range).unwrap_or(delay.penalty);
        // In steps, so that a time that trembles does not move routes.
        let penalty = penalty / PENALTY_STEP * PENALTY_STEP;
        base.saturating_add(penalty).min(INFINITY - 1)
    }

    /// An IHU for us came in.
    pub(crate) fn received_ihu(&mut self, now: Instant, rxcost: u16, interval: Duration) {
        self.txcost = rxcost;
        self.ihu_deadline = Some(now + ihu_lifetime(interval));
    }

    pub(crate) fn next_deadline(&self, detection: &Detection) -> Option<Instant> {
        let unscheduled = self.owes_nothing().then(|| self.last_heard + UNSCHEDULED_LIFETIME);
        let (repeat, retry) = (self.freshness.next_repeat(), self.peer_table.retry_at);
        let hellos = [self.multicast.deadline, self.unicast.deadline, self.ihu_deadline];
        let others = [unscheduled, repeat, retry, self.detector.next_deadline(detection)];
        hellos.into_iter().chain(others).flatten().min()
    }

    /// Counts what is overdue, and says what follows.
    pub(crate) fn handle_timeout(&mut self, now: Instant, detection: &Detection) -> Option<Change> {
        for history in [&mut self.multicast, &mut self.unicast] {
            while history.deadline.is_some_and(|deadline| deadline <= now) {
                history.missed(now);
            }
        }
        if self.ihu_deadline.is_some_and(|deadline| deadline <= now) {
            self.ihu_deadline = None;
            self.txcost = INFINITY;
        }
        if self.owes_nothing() && now >= self.last_heard + UNSCHEDULED_LIFETIME {
            return Some(Change::Forgotten);
        }
        self.detector.missed(now, self.missed(), detection)
    }

    /// Neither Hellos are awaited of it, nor the end of its grace.
    fn owes_nothing(&self) -> bool {
        !self.awaits_hellos() && !matches!(self.detector.state(), State::Dead(_))
    }

    fn awaits_hellos(&self) -> bool {
        self.multicast.deadline.is_some() || self.unicast.deadline.is_some()
    }
}

/// Expected transmissions (appendix A.2.2): 256 / beta, beta being the share of the last sixteen Hellos that came in.
fn etx_rxcost(bits: u16) -> u16 {
    let received = u16::try_from(bits.count_ones()).expect("sixteen bits");
    (256 * 16_u16).checked_div(received).unwrap_or(INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DETECTION: Detection =
        Detection { dead_threshold: 3, removal_grace: Duration::from_secs(30), flap_damping: true };

    fn neighbour() -> Neighbour {
        Neighbour::new(Instant(0), false, Freshness::default())
    }

    fn history(seqnos: &[u16]) -> History {
        let mut history = History::default();
        for &seqno in seqnos {
            history.received(Instant(0), Seqno(seqno), SECOND, 3);
        }
        history
    }

    #[test]
    fn history_follows_appendix_a() {
        assert_eq!(history(&[7]).bits, 0x8000);
        assert_eq!(history(&[7, 8, 9]).bits, 0xe000);
        assert_eq!(history(&[7, 9]).bits, 0xa000, "one was lost");
        assert_eq!(history(&[65535, 0]).bits, 0xc000, "seqnos wrap");
        assert_eq!(history(&[7, 8, 9, 100]).bits, 0x8000, "the neighbour restarted");
        let mut late = history(&[7, 8]);
        late.missed(Instant(0));
        assert_eq!(late.bits, 0x6000);
        late.received(Instant(0), Seqno(9), SECOND, 3);
        assert_eq!(late.bits, 0xe000, "it was no miss");
    }

    #[test]
    fn a_wired_link_costs_96_while_two_of_three_hellos_come_in() {
        let mut neighbour = neighbour();
        neighbour.multicast.received(Instant(0), Seqno(1), SECOND, 3);
        assert_eq!(neighbour.rxcost(), INFINITY);
        neighbour.multicast.received(Instant(0), Seqno(2), SECOND, 3);
        assert_eq!((neighbour.rxcost(), neighbour.base_cost()), (96, INFINITY), "it does not hear us yet");
        neighbour.received_ihu(Instant(0), 96, SECOND);
        assert_eq!(neighbour.base_cost(), 96);
        let two_missed = Instant(0) + SECOND * 5 / 2;
        neighbour.handle_timeout(Instant(0) + SECOND * 3 / 2, &DETECTION);
        neighbour.handle_timeout(two_missed, &DETECTION);
        assert_eq!(neighbour.base_cost(), INFINITY);
    }

    #[test]
    fn f30_a_silent_neighbour_is_suspect_then_dead_and_forgotten_after_its_grace() {
        let mut neighbour = neighbour();
        neighbour.multicast.received(Instant(0), Seqno(1), SECOND, 3);
        neighbour.detector.heard();
        let mut changes = vec![];
        while changes.last().is_none_or(|(_, change)| *change != Change::Forgotten) {
            let deadline = neighbour.next_deadline(&DETECTION).unwrap();
            changes.extend(neighbour.handle_timeout(deadline, &DETECTION).map(|change| (deadline, change)));
        }
        let at = |half_seconds: u32| Instant(0) + SECOND * half_seconds / 2;
        let expected = [(5, Change::Suspect), (7, Change::Dead { flapping: false }), (67, Change::Forgotten)];
        assert_eq!(changes, expected.map(|(half_seconds, change)| (at(half_seconds), change)));
    }

    #[test]
    fn f38_an_overtaken_hello_is_entered_where_it_belongs_and_stretches_the_deadline() {
        let ms = |ms: u64| Instant(ms * 1000);
        let interval = Duration::from_millis(100);
        let mut history = History::default();
        for n in 0..4 {
            history.received(ms(100 * u64::from(n)), Seqno(n), interval, 3);
        }
        assert_eq!(history.deadline, Some(ms(450)));
        history.received(ms(500), Seqno(5), interval, 3);
        assert_eq!(history.bits >> 11, 0b10111);
        history.received(ms(530), Seqno(4), interval, 3);
        assert_eq!((history.bits >> 11, history.expected), (0b11111, Seqno(6)));
        history.received(ms(600), Seqno(6), interval, 3);
        assert_eq!(history.bits >> 10, 0b11_1111);
        let stretched = history.deadline.unwrap() - ms(750);
        assert!(stretched > interval && stretched < Duration::from_millis(130), "{stretched:?}");
    }

    #[test]
    fn a_neighbour_that_one_series_is_heard_of_is_up() {
        let mut neighbour = neighbour();
        neighbour.multicast.received(Instant(0), Seqno(1), SECOND, 3);
        for second in 0..10 {
            let now = Instant(0) + SECOND * second;
            neighbour.unicast.received(now, Seqno(u16::try_from(second).unwrap()), SECOND, 3);
            assert_eq!(neighbour.handle_timeout(now, &DETECTION), None);
        }
        neighbour.review_multicast(Instant(0) + SECOND, 3 * SECOND);
        assert!(!neighbour.misses_multicast, "it may still begin");
        neighbour.review_multicast(Instant(0) + 10 * SECOND, 3 * SECOND);
        assert!(neighbour.misses_multicast);
        neighbour.multicast.received(Instant(0) + 10 * SECOND, Seqno(11), SECOND, 3);
        neighbour.review_multicast(Instant(0) + 10 * SECOND, 3 * SECOND);
        assert!(neighbour.misses_multicast, "one is not enough");
        neighbour.multicast.received(Instant(0) + 11 * SECOND, Seqno(12), SECOND, 3);
        neighbour.review_multicast(Instant(0) + 11 * SECOND, 3 * SECOND);
        assert!(!neighbour.misses_multicast);
    }

    #[test]
    fn a_neighbour_that_announces_no_next_hello_is_gone_after_a_while() {
        for scheduled in [Duration::ZERO, SECOND] {
            let mut neighbour = neighbour();
            neighbour.unicast.received(Instant(0), Seqno(1), Duration::ZERO, 3);
            neighbour.multicast.received(Instant(0), Seqno(1), scheduled, 3);
            let mut last = Instant(0);
            while let Some(deadline) = neighbour.next_deadline(&DETECTION) {
                let gone = neighbour.handle_timeout(deadline, &DETECTION) == Some(Change::Forgotten);
                assert!(gone || deadline > last, "the same deadline again: {deadline:?}");
                last = deadline;
                if gone {
                    break;
                }
            }
            assert_eq!(last, Instant(0) + UNSCHEDULED_LIFETIME, "Hellos every {scheduled:?}");
        }
    }

    #[test]
    fn a_wireless_link_costs_by_its_losses() {
        assert_eq!(etx_rxcost(0xffff), 256);
        assert_eq!(etx_rxcost(0x5555), 512);
        assert_eq!(etx_rxcost(0), INFINITY);
    }
}
