//! Who is alive: the failure detector of one neighbour.
//!
//! A neighbour promises a Hello every so often and keeps the promise as well as its link lets it. This is what becomes of
//! it when it does not:
//!
//! ```text
//!              2 missed            dead_threshold missed        removal_grace over
//!   heard ───────────────► suspect ───────────────────► dead ───────────────────► forgotten
//!     ▲  ◄──────────────────┘  a Hello                   │
//!     └──────────────────────────────────────────────────┘  a Hello: "back", with all that it had proved
//! ```
//!
//! *Missed* means that the deadline of a Hello passed. The first deadline is one and a half intervals after the last
//! Hello, the next ones follow at the interval, so that a link which is quiet otherwise tells of a death after
//! `dead_threshold + ½` intervals: 350 ms with Hellos every 100 ms.
//!
//! Not every late Hello is a missing one. [`Lateness`] remembers how late they have been, measured against the one
//! before, and stretches the deadline by that. A punctual link pays nothing for it. A trembling one is given time, but at
//! most `dead_threshold` intervals: a death is noticed after twice the time at worst, however bad the link.
//!
//! A *suspect* is still spoken to, but RFC 8966 appendix A.2.1 has it that a wired link costs infinity now, so its
//! routes go elsewhere if they can. A *dead* neighbour carries nothing. What it proved (RFC 8967: its index and packet
//! counter), its digest and what it announced stay for `removal_grace`. If it returns in that time it is taken up where
//! it left, without a challenge.
//!
//! A neighbour that dies over and over moves everybody's routes each time. Each death is a penalty that decays by half
//! every [`HALF_LIFE`] ([`Flaps`], as RFC 2439 §4.2 has it for routes). Above [`SUPPRESS`] the link is given a high cost
//! until the penalty is below [`REUSE`]: others are preferred, and if there is no other it still serves.

use crate::config::Detection;
use crate::rate::{Bucket, Limit};
use crate::time::Instant;
use core::time::Duration;

/// Hellos missed in a row that make a suspect.
const SUSPECT_MISSED: u32 = 2;
/// Part of a remembered lateness that each Hello has us forget.
const FORGET_PART: u32 = 32;

/// Penalty of a death.
const PENALTY: u32 = 1000;
/// Time in which a penalty decays by half.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// Above it the link is damped: the third death in about a minute.
const SUPPRESS: u32 = 2200;
/// Below it no more.
const REUSE: u32 = 1000;
/// No penalty is higher, so that a link is damped for two minutes after its last death at most.
const MAX_PENALTY: u32 = 4000;
/// Added to the cost of a damped link: more than any way around it of a sane length.
pub(crate) const FLAPPING_COST: u16 = 8192;

/// Suspicions, and their ends, that are told: a bad radio link has many.
const SUSPICIONS: Limit = Limit { interval: Duration::from_secs(20), burst: 6 };

/// How late the Hellos of a series come, against the one before: the latest peak, slowly forgotten.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lateness(Duration);

impl Lateness {
    /// A Hello came `after` the one before, and was due after `due`.
    pub(crate) fn observe(&mut self, after: Duration, due: Duration, most: Duration) {
        let decayed = self.0 - self.0 / FORGET_PART;
        self.0 = after.saturating_sub(due).max(decayed).min(most);
    }

    /// What a deadline is stretched by.
    pub(crate) fn stretch(self) -> Duration {
        self.0
    }
}

/// Deaths, as a penalty that decays.
#[derive(Clone, Copy, Default)]
struct Flaps {
    penalty: u32,
    at: Instant,
    /// Deaths since the neighbour is known.
    deaths: u32,
    damped: bool,
}

impl Flaps {
    /// The penalty now: halved for each half-life, and evenly in between.
    fn penalty(&self, now: Instant) -> u32 {
        let (elapsed, half) = ((now - self.at).as_micros(), HALF_LIFE.as_micros());
        let whole = u32::try_from(elapsed / half).unwrap_or(u32::MAX);
        let halved = u128::from(self.penalty.checked_shr(whole).unwrap_or(0));
        let decayed = halved - halved * (elapsed % half) / (2 * half);
        u32::try_from(decayed).unwrap_or(MAX_PENALTY)
    }

    /// Returns whether damping began.
    fn death(&mut self, now: Instant, damping: bool) -> bool {
        self.penalty = (self.penalty(now) + PENALTY).min(MAX_PENALTY);
        self.at = now;
        self.deaths = self.deaths.saturating_add(1);
        let begins = damping && !self.damped && self.penalty > SUPPRESS;
        self.damped |= begins;
        begins
    }

    /// Time until the penalty is low enough.
    fn calm_after(&self) -> Duration {
        let mut penalty = self.penalty;
        let mut after = Duration::ZERO;
        while penalty / 2 > REUSE {
            penalty /= 2;
            after += HALF_LIFE;
        }
        // Evenly from the penalty to its half; one step more, so that it is below.
        let above = penalty.saturating_sub(REUSE) + 1;
        after + HALF_LIFE.saturating_mul(2 * above) / penalty.max(1)
    }

    fn calm_at(&self) -> Option<Instant> {
        self.damped.then(|| self.at + self.calm_after())
    }
}

/// Where a neighbour stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum State {
    /// Nothing accepted from it yet.
    #[default]
    Unproven,
    /// Proven fresh, and heard.
    Heard,
    /// Proven fresh, and silent for a bit too long.
    Suspect,
    /// Silent for too long, since then.
    Dead(Instant),
}

/// What a silence led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// Suspect from now on.
    Suspect,
    /// Dead from now on.
    Dead {
        /// Whether its link is damped from now on, too.
        flapping: bool,
    },
    /// Silent for so long that nothing of it is kept.
    Forgotten,
}

/// The detector of one neighbour.
#[derive(Default)]
pub(crate) struct Detector {
    state: State,
    flaps: Flaps,
    suspicions: Bucket,
}

impl Detector {
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Heard, or not yet silent for too long.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Heard | State::Suspect)
    }

    /// Something of it was accepted. Returns where it stood before.
    pub(crate) fn heard(&mut self) -> State {
        core::mem::replace(&mut self.state, State::Heard)
    }

    /// This many Hellos in a row did not come, of every series there is.
    pub(crate) fn missed(&mut self, now: Instant, missed: u32, detection: &Detection) -> Option<Change> {
        match self.state {
            State::Heard | State::Suspect if missed >= u32::from(detection.dead_threshold) => {
                self.state = State::Dead(now);
                Some(Change::Dead { flapping: self.flaps.death(now, detection.flap_damping) })
            }
            State::Heard if missed >= SUSPECT_MISSED => {
                self.state = State::Suspect;
                Some(Change::Suspect)
            }
            State::Dead(since) if now >= since + detection.removal_grace => Some(Change::Forgotten),
            _ => None,
        }
    }

    /// Whether so few are missed that a suspicion has no ground any more.
    pub(crate) fn is_cleared_by(&self, missed: u32) -> bool {
        self.state == State::Suspect && missed < SUSPECT_MISSED
    }

    /// Whether a suspicion may be told.
    pub(crate) fn tells(&mut self, now: Instant) -> bool {
        self.suspicions.take(now, SUSPICIONS)
    }

    /// When it is to be looked at, Hellos aside.
    pub(crate) fn next_deadline(&self, detection: &Detection) -> Option<Instant> {
        let forgotten = match self.state {
            State::Dead(since) => Some(since + detection.removal_grace),
            _ => None,
        };
        crate::earliest(forgotten, self.flaps.calm_at())
    }

    /// Whether its link is given a high cost because it dies too often.
    pub(crate) fn is_damped(&self) -> bool {
        self.flaps.damped
    }

    /// Ends damping that is due, or not wanted any more. Returns whether it ended.
    pub(crate) fn calm(&mut self, now: Instant, detection: &Detection) -> bool {
        let over = !detection.flap_damping || self.flaps.calm_at().is_some_and(|at| at <= now);
        over && core::mem::take(&mut self.flaps.damped)
    }

    /// Time until damping ends, if nothing more happens.
    pub(crate) fn calm_after(&self) -> Duration {
        self.flaps.calm_after()
    }

    /// Deaths since it is known.
    pub(crate) fn deaths(&self) -> u32 {
        self.flaps.deaths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn detector() -> (Detector, Detection) {
        let mut detector = Detector::default();
        assert_eq!(detector.heard(), State::Unproven);
        (detector, Detection::default())
    }

    #[test]
    fn f30_suspect_then_dead_then_forgotten_and_back_in_between() {
        let (mut detector, detection) = detector();
        let at = |seconds: u32| Instant(0) + SECOND * seconds;
        assert_eq!(detector.missed(at(1), 1, &detection), None);
        assert_eq!(detector.missed(at(2), 2, &detection), Some(Change::Suspect));
        assert!(detector.is_up() && !detector.is_cleared_by(2) && detector.is_cleared_by(0));
        assert_eq!(detector.missed(at(3), 3, &detection), Some(Change::Dead { flapping: false }));
        assert!(!detector.is_up());
        assert_eq!(detector.missed(at(32), 16, &detection), None);
        assert_eq!(detector.next_deadline(&detection), Some(at(33)));
        assert_eq!(detector.missed(at(33), 16, &detection), Some(Change::Forgotten));
        assert_eq!(detector.heard(), State::Dead(at(3)));
        assert!(detector.is_up());
    }

    #[test]
    fn f30_the_threshold_is_the_configured_one() {
        let (mut detector, detection) = detector();
        let detection = Detection { dead_threshold: 5, ..detection };
        let changes = [1, 2, 3, 4, 5].map(|missed| detector.missed(Instant(0), missed, &detection));
        assert_eq!(changes, [None, Some(Change::Suspect), None, None, Some(Change::Dead { flapping: false })]);
    }

    /// Dies and returns every ten seconds; says at which death damping began.
    fn flaps(detector: &mut Detector, detection: &Detection, deaths: u32) -> Option<u32> {
        let begins = |death: &u32| {
            detector.heard();
            detector.missed(Instant(0) + 10 * SECOND * *death, 3, detection) == Some(Change::Dead { flapping: true })
        };
        (1..=deaths).filter(begins).collect::<Vec<_>>().first().copied()
    }

    #[test]
    fn f30_the_third_death_in_a_minute_is_damped_until_calm() {
        let (mut detector, detection) = detector();
        assert_eq!(flaps(&mut detector, &detection, 3), Some(3));
        assert!(detector.is_damped());
        let last = Instant(0) + 30 * SECOND;
        let calm = last + detector.calm_after();
        assert!((60..180).contains(&(calm - last).as_secs()), "{calm:?}");
        assert!(!detector.calm(Instant(calm.0 - 1_000_000), &detection));
        assert!(detector.calm(calm, &detection) && !detector.is_damped());
        assert!(detector.flaps.penalty(calm) <= REUSE);
        // However often it died: not for ever.
        assert!(flaps(&mut detector, &detection, 1000).is_some());
        assert!(detector.calm_after() <= 3 * HALF_LIFE);
    }

    #[test]
    fn f30_deaths_that_are_far_apart_are_not_flaps_and_damping_can_be_off() {
        let (mut detector, detection) = detector();
        for hour in 0..10 {
            detector.heard();
            let dead = detector.missed(Instant(0) + 3600 * SECOND * hour, 3, &detection);
            assert_eq!(dead, Some(Change::Dead { flapping: false }));
        }
        assert_eq!(detector.deaths(), 10);
        let off = Detection { flap_damping: false, ..detection };
        assert_eq!(flaps(&mut detector, &off, 20), None);
    }

    #[test]
    fn f38_a_peak_of_lateness_is_remembered_for_a_while_and_bounded() {
        let ms = Duration::from_millis;
        let mut lateness = Lateness::default();
        lateness.observe(ms(90), ms(100), ms(300));
        assert_eq!(lateness.stretch(), Duration::ZERO, "early is not late");
        lateness.observe(ms(250), ms(100), ms(300));
        assert_eq!(lateness.stretch(), ms(150));
        lateness.observe(ms(100), ms(100), ms(300));
        assert!(lateness.stretch() > ms(140));
        lateness.observe(ms(5000), ms(100), ms(300));
        assert_eq!(lateness.stretch(), ms(300));
        (0..200).for_each(|_| lateness.observe(ms(100), ms(100), ms(300)));
        assert!(lateness.stretch() < ms(1));
    }
}
