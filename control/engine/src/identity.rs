//! Our own NODE object, when somebody else's word about us comes in: ours has to be the last.
//!
//! Once, that is something of ours from before a restart, made when our clock was ahead. Over and over, it is another
//! gateway with our node key, which corrects us as we correct it: then each correction waits twice as long as the one
//! before, and the operator is told.

use crate::Engine;
use crate::output::Event;
use crate::sync::NeighbourKey;
use crate::time::{Instant, Now};
use crate::timer::Timer;
use crate::view::IdentityConflict;
use core::time::Duration;

/// Wait after the first correction; doubled after each.
const WAIT: Duration = Duration::from_secs(1);
/// Longest wait.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// After a time without contradiction it all begins anew.
const QUIET: Duration = Duration::from_secs(900);
/// Corrections that are as it should be: several neighbours may hold something old.
const INNOCENT: u32 = 2;

/// Corrections made lately.
#[derive(Default)]
pub(crate) struct Corrections {
    count: u32,
    /// The last contradiction: when, and who passed it on.
    last: Option<(Instant, NeighbourKey)>,
    /// When the next one may be made.
    next_at: Instant,
    /// Whether one is to be made then.
    pending: bool,
}

impl Engine {
    /// Another NODE object of our origin was accepted, by way of a neighbour.
    pub(crate) fn identity_contested(&mut self, now: Now, by: NeighbourKey) {
        let corrections = &mut self.corrections;
        if corrections.last.is_some_and(|(last, _)| now.mono - last >= QUIET) {
            *corrections = Corrections::default();
        }
        corrections.last = Some((now.mono, by));
        corrections.pending = true;
        if now.mono >= corrections.next_at {
            self.correct_identity(now);
        } else {
            self.counters.delayed_corrections += 1;
            self.timers.set(Timer::Identity, corrections.next_at);
        }
    }

    /// Has the last word, for now.
    pub(crate) fn correct_identity(&mut self, now: Now) {
        let corrections = &mut self.corrections;
        if !core::mem::take(&mut corrections.pending) {
            return;
        }
        corrections.next_at = now.mono + (WAIT * (1 << corrections.count.min(10))).min(MAX_WAIT);
        corrections.count = corrections.count.saturating_add(1);
        self.announce_node(now, now.wall.0);
        if let Some(IdentityConflict { ifindex, address, corrections }) = self.identity_conflict(now.mono) {
            self.alarm(now, Event::IdentityConflict { ifindex, address, corrections });
        }
    }

    /// Whether another gateway runs with our node key, as far as can be told from here.
    pub fn identity_conflict(&self, now: Instant) -> Option<IdentityConflict> {
        let corrections = self.corrections.count;
        let (last, (ifindex, address)) = self.corrections.last?;
        (corrections > INNOCENT && now - last < QUIET).then_some(IdentityConflict { ifindex, address, corrections })
    }
}
