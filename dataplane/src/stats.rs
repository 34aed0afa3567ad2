//! Counters of a worker: plain numbers of its own, handed to the main thread as a copy when it asks.

use crate::pipeline::Action;
use crate::tables::{MAX_PORTS_SERVED, PortIndex};
use gemcast_proto::reason::Reason;

/// Frames by reason.
#[derive(Clone)]
pub struct ReasonCounts([u64; Reason::COUNT]);

impl Default for ReasonCounts {
    fn default() -> Self {
        Self([0; Reason::COUNT])
    }
}

impl ReasonCounts {
    /// Counts a frame.
    #[inline]
    pub fn add(&mut self, reason: Reason) {
        self.0[reason as usize] += 1;
    }

    /// Sets a count that somebody else keeps.
    pub fn set(&mut self, reason: Reason, frames: u64) {
        self.0[reason as usize] = frames;
    }

    /// Frames of a reason.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Self) {
        for (sum, frames) in self.0.iter_mut().zip(other.0) {
            *sum += frames;
        }
    }

    /// Reasons with frames.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.iter().map(|&reason| (reason, self.get(reason))).filter(|(_, frames)| *frames > 0)
    }
}

/// Counters of one interface at one worker.
#[derive(Clone, Default)]
pub struct PortStats {
    /// Frames received here that left by at least one interface.
    pub forwarded: u64,
    /// Frames received here that were dropped.
    pub dropped: ReasonCounts,
    /// Sealed frames received here that were opened.
    pub opened: u64,
    /// Sealed frames received here whose packet had been opened before, relayed or not.
    pub copies: u64,
    /// Descriptors the kernel refused.
    pub invalid: u64,
    /// Frames received here that wait for a key.
    pub held: u64,
    /// Frames sent here.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Copies that could not be sent here.
    pub unsent: ReasonCounts,
}

impl PortStats {
    /// Adds another worker's.
    pub fn merge(&mut self, other: &Self) {
        self.forwarded += other.forwarded;
        self.opened += other.opened;
        self.copies += other.copies;
        self.invalid += other.invalid;
        self.held += other.held;
        self.sent += other.sent;
        self.sent_bytes += other.sent_bytes;
        self.dropped.merge(&other.dropped);
        self.unsent.merge(&other.unsent);
    }
}

/// Counters of one flow at one worker: packets and bytes, by what was done.
#[derive(Clone, Copy, Default)]
pub struct FlowStats {
    /// Sealed.
    pub sealed: (u64, u64),
    /// Opened.
    pub opened: (u64, u64),
    /// Relayed in the clear.
    pub relayed: (u64, u64),
    /// Relayed sealed.
    pub transited: (u64, u64),
}

impl FlowStats {
    /// Counts a forwarded frame.
    #[inline]
    pub fn add(&mut self, action: Action, bytes: usize) {
        let (packets, sum) = match action {
            Action::Sealed => &mut self.sealed,
            Action::Opened => &mut self.opened,
            Action::Relayed => &mut self.relayed,
            Action::Transited => &mut self.transited,
        };
        *packets += 1;
        *sum += bytes as u64;
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Self) {
        for (sum, counts) in [
            (&mut self.sealed, other.sealed),
            (&mut self.opened, other.opened),
            (&mut self.relayed, other.relayed),
            (&mut self.transited, other.transited),
        ] {
            sum.0 += counts.0;
            sum.1 += counts.1;
        }
    }
}

/// Everything one worker counts.
#[derive(Clone, Default)]
pub struct WorkerStats {
    /// By interface.
    pub ports: Vec<PortStats>,
    /// By flow position.
    pub flows: Vec<FlowStats>,
    /// Batches that held at least one frame.
    pub batches: u64,
    /// Frames not in use.
    pub frames_free: u64,
}

impl WorkerStats {
    /// Zero for every interface.
    pub fn new() -> Self {
        Self { ports: vec![PortStats::default(); MAX_PORTS_SERVED], ..Self::default() }
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Self) {
        for (sum, port) in self.ports.iter_mut().zip(&other.ports) {
            sum.merge(port);
        }
        self.flows.resize_with(self.flows.len().max(other.flows.len()), Default::default);
        for (sum, flow) in self.flows.iter_mut().zip(&other.flows) {
            sum.merge(flow);
        }
        self.batches += other.batches;
        self.frames_free += other.frames_free;
    }

    /// Forgets what an earlier interface at this position counted.
    pub fn reset_port(&mut self, port: PortIndex) {
        self.ports[port] = PortStats::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_leaves_no_counter_out() {
        let mut flow = FlowStats::default();
        for action in [Action::Sealed, Action::Opened, Action::Relayed, Action::Transited] {
            flow.add(action, 10);
        }
        let mut sum = flow;
        sum.merge(&flow);
        for counts in [sum.sealed, sum.opened, sum.relayed, sum.transited] {
            assert_eq!(counts, (2, 20));
        }
    }
}
