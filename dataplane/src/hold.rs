//! Packets whose key is not known yet: they passed their group tag and wait a moment for the announcement (F02).
//!
//! Bounded per flow in packets, bytes and time, per key to a part of that, and in all by what the worker can spare. Order is kept: as long as one
//! packet of a key waits, the ones behind it find the key unknown as well, because keys appear only between batches.

use crate::tables::HoldLimits;
use gemcast_proto::id::KeyId;
use gemcast_proto::reason::Reason;
use std::collections::VecDeque;

/// A waiting packet; `F` is the frame it lies in.
pub struct Held<F> {
    /// The frame.
    pub frame: F,
    /// Length of the packet in bytes.
    pub length: usize,
    /// The key it waits for.
    pub key_id: KeyId,
    /// Position of its flow.
    pub flow: u32,
    /// Port it came in by.
    pub port: usize,
    /// Whether it was relayed already, and is counted.
    pub relayed: bool,
    deadline_ms: u64,
}

/// What is known of a packet that is to wait.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Length of the packet in bytes.
    pub length: usize,
    /// The key it waits for.
    pub key_id: KeyId,
    /// Position of its flow.
    pub flow: u32,
    /// Port it came in by.
    pub port: usize,
    /// Whether it was relayed already, and is counted.
    pub relayed: bool,
}

/// The queue of one worker.
pub struct HoldQueue<F> {
    queue: VecDeque<Held<F>>,
    /// Packets and bytes waiting, by flow position.
    usage: Vec<(usize, usize)>,
    capacity: usize,
    limits: HoldLimits,
}

impl<F> HoldQueue<F> {
    /// A queue of at most `capacity` packets over all flows.
    pub fn new(capacity: usize) -> Self {
        Self { queue: VecDeque::with_capacity(capacity), usage: Vec::new(), capacity, limits: HoldLimits::default() }
    }

    /// Sets the bounds and the number of flows.
    pub fn configure(&mut self, limits: HoldLimits, flows: usize) {
        self.limits = limits;
        if self.usage.len() < flows {
            self.usage.resize(flows, (0, 0));
        }
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Packets of a port that wait and were not forwarded otherwise.
    pub fn waiting(&self, port: usize) -> u64 {
        self.queue.iter().filter(|held| held.port == port && !held.relayed).count() as u64
    }

    /// Queues a packet. Gives the frame back when a bound is reached.
    pub fn push(&mut self, frame: F, waiting: Waiting, now_ms: u64) -> Result<(), (F, Reason)> {
        let Waiting { length, key_id, flow, port, relayed } = waiting;
        // One key that never comes leaves room for another that does.
        let of_key = self.queue.iter().filter(|held| held.key_id == key_id && held.flow == flow).count();
        let key_packets = (self.limits.packets * 3).div_ceil(4);
        let full = self.queue.len() >= self.capacity || of_key >= key_packets;
        match self.usage.get_mut(flow as usize) {
            Some((packets, bytes))
                if !full && *packets < self.limits.packets && *bytes + length <= self.limits.bytes =>
            {
                *packets += 1;
                *bytes += length;
            }
            _ => return Err((frame, Reason::KeyQueueFull)),
        }
        let deadline_ms = now_ms + self.limits.hold.as_millis() as u64;
        self.queue.push_back(Held { frame, length, key_id, flow, port, relayed, deadline_ms });
        Ok(())
    }

    /// Takes the oldest packet when its time is up.
    pub fn pop_expired(&mut self, now_ms: u64) -> Option<Held<F>> {
        if self.queue.front()?.deadline_ms > now_ms {
            return None;
        }
        self.pop()
    }

    /// Takes the oldest packet.
    pub fn pop(&mut self) -> Option<Held<F>> {
        let held = self.queue.pop_front()?;
        if let Some((packets, bytes)) = self.usage.get_mut(held.flow as usize) {
            *packets -= 1;
            *bytes -= held.length;
        }
        Some(held)
    }

    /// Takes out every packet that came in by a port.
    pub fn remove_port(&mut self, port: usize) -> Vec<Held<F>> {
        let mut removed = Vec::new();
        for _ in 0..self.queue.len() {
            let Some(held) = self.pop() else { break };
            if held.port == port {
                removed.push(held);
            } else {
                self.push_back(held);
            }
        }
        removed
    }

    /// Number of packets waiting.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Puts a packet that still has to wait behind the others, with the time it has left.
    pub fn push_back(&mut self, held: Held<F>) {
        if let Some((packets, bytes)) = self.usage.get_mut(held.flow as usize) {
            *packets += 1;
            *bytes += held.length;
        }
        self.queue.push_back(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn queue(packets: usize, bytes: usize) -> HoldQueue<u32> {
        let mut queue = HoldQueue::new(100);
        queue.configure(HoldLimits { packets, bytes, hold: Duration::from_millis(500) }, 2);
        queue
    }

    fn waiting(length: usize, key_id: u32, flow: u32) -> Waiting {
        Waiting { length, key_id: KeyId(key_id), flow, port: 0, relayed: false }
    }

    #[test]
    fn each_flow_has_its_own_bounds() {
        let mut queue = queue(2, 1000);
        assert!(queue.push(1, waiting(400, 1, 0), 0).is_ok());
        assert!(queue.push(2, waiting(400, 1, 0), 0).is_ok());
        assert_eq!(queue.push(3, waiting(10, 1, 0), 0).unwrap_err(), (3, Reason::KeyQueueFull), "packets");
        assert!(queue.push(4, waiting(900, 2, 1), 0).is_ok());
        assert_eq!(queue.push(5, waiting(101, 2, 1), 0).unwrap_err(), (5, Reason::KeyQueueFull), "bytes");
        queue.pop().unwrap();
        assert!(queue.push(6, waiting(400, 1, 0), 0).is_ok(), "room again");
    }

    #[test]
    fn one_key_leaves_room_for_another() {
        let mut queue = queue(64, 1 << 20);
        let taken = (0..100).filter(|&n| queue.push(n, waiting(10, 1, 0), 0).is_ok()).count();
        assert_eq!(taken, 48);
        assert!(queue.push(200, waiting(10, 2, 0), 0).is_ok());
        assert!(queue.push(201, waiting(10, 1, 1), 0).is_ok(), "each flow for itself");
        queue.pop().unwrap();
        assert!(queue.push(202, waiting(10, 1, 0), 0).is_ok(), "room again");
    }

    #[test]
    fn packets_leave_in_order_when_their_time_is_up() {
        let mut queue = queue(10, 10_000);
        queue.push(1, waiting(10, 1, 0), 0).unwrap();
        queue.push(2, waiting(10, 1, 0), 100).unwrap();
        assert!(queue.pop_expired(499).is_none());
        assert_eq!(queue.pop_expired(500).unwrap().frame, 1);
        assert!(queue.pop_expired(500).is_none());
        assert_eq!(queue.pop_expired(600).unwrap().frame, 2);
        assert!(queue.is_empty());
    }

    #[test]
    fn the_whole_is_bounded_and_unknown_flows_are_refused() {
        let mut queue: HoldQueue<u32> = HoldQueue::new(1);
        queue.configure(HoldLimits::default(), 1);
        queue.push(1, waiting(10, 1, 0), 0).unwrap();
        assert!(queue.push(2, waiting(10, 1, 0), 0).is_err());
        assert!(queue.push(3, waiting(10, 1, 7), 0).is_err());
    }
}
