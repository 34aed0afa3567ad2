//! The engine's own deadlines, one slot per purpose. Those of interfaces and neighbours live with them.

use crate::time::Instant;

/// What a deadline is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    /// Objects run out of validity.
    Expiry,
    /// Our NODE object is to be made anew before it runs out.
    NodeRefresh,
    /// A SEK of ours is to be made, switched to or wiped.
    Seks,
    /// A key found in the maps, whose object did not come back, is to be wiped.
    Adopted,
    /// Objects queued for neighbours go out at a pace.
    Delivery,
    /// The start's wildcard request is to be repeated.
    InitialSync,
    /// Routes run out, or have been unreachable for long enough.
    Routes,
    /// Seqno requests are to be repeated.
    Requests,
    /// What was said about us is to be corrected.
    Identity,
    /// Gateways that were lost or are back are to be told.
    Partitions,
    /// Streams are silent, if nothing of them came.
    Streams,
    /// Old state is to be looked through.
    Housekeeping,
    /// Administrative objects have come.
    Administration,
    /// Who stands for whom may have changed.
    Successions,
    /// A group key is to be announced, changed to, or ended.
    Gaks,
    /// A ban is over.
    Bans,
    /// The forwarders of the LAN are to be looked at.
    Lease,
}

impl Timer {
    const ALL: [Self; 17] = [
        Self::Expiry,
        Self::NodeRefresh,
        Self::Seks,
        Self::Adopted,
        Self::Delivery,
        Self::InitialSync,
        Self::Routes,
        Self::Requests,
        Self::Identity,
        Self::Partitions,
        Self::Streams,
        Self::Housekeeping,
        Self::Administration,
        Self::Successions,
        Self::Gaks,
        Self::Bans,
        Self::Lease,
    ];
}

/// One deadline per [`Timer`].
#[derive(Default)]
pub(crate) struct Timers([Option<Instant>; Timer::ALL.len()]);

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    /// Moves the deadline forward in time if it is later, never back.
    pub(crate) fn set_by(&mut self, timer: Timer, at: Instant) {
        let slot = &mut self.0[timer as usize];
        *slot = Some(slot.map_or(at, |old| old.min(at)));
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Takes one that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Timer> {
        let due = Timer::ALL.into_iter().find(|&timer| self.0[timer as usize].is_some_and(|at| at <= now))?;
        self.stop(due);
        Some(due)
    }
}
