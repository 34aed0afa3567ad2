//! What the workers forward by: flows and ports, made by the main thread, swapped in whole.

use gemcast_proto::id::Group;
use gemcast_xdp::layout::{FlowRule, MAX_PORTS};
use std::collections::HashMap;
use std::time::Duration;

/// Interfaces a data plane can serve. Half the slots of the maps: a restarted data plane takes the other half, so that
/// its counters start at zero while the program it replaces still counts in the old ones.
pub const MAX_PORTS_SERVED: usize = (gemcast_xdp::layout::MAX_INTERFACES / 2) as usize;

/// Position of an interface in the workers' tables.
pub type PortIndex = usize;

/// A set of ports.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PortSet(u16);

impl PortSet {
    /// Adds a port.
    pub fn insert(&mut self, port: PortIndex) {
        self.0 |= 1 << port;
    }

    /// The same without `port`.
    #[inline]
    pub fn without(self, port: PortIndex) -> Self {
        Self(self.0 & !(1 << port))
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Takes the first port out.
    #[inline]
    pub fn pop(&mut self) -> Option<PortIndex> {
        if self.0 == 0 {
            return None;
        }
        let port = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(port)
    }
}

const _: () = assert!(MAX_PORTS_SERVED <= 16, "a PortSet has 16 bits");

/// Role of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Cleartext side.
    Trusted,
    /// Ciphertext side.
    Untrusted,
}

/// What to do with a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flow {
    /// The unit of protection.
    pub group: Group,
    /// Sealed on untrusted interfaces.
    pub sealed: bool,
    /// Forwarded from trusted interfaces.
    pub send: bool,
    /// Delivered from untrusted interfaces.
    pub receive: bool,
    /// Sealed packets are relayed between untrusted interfaces.
    pub transit: bool,
    /// Another gateway forwards what comes from trusted interfaces.
    pub send_standby: bool,
    /// Another gateway delivers what comes from untrusted interfaces.
    pub receive_standby: bool,
    /// Destination ports, none for all.
    pub ports: Vec<u16>,
    /// Source addresses, 16 bytes each, none for all.
    pub sources: Vec<[u8; 16]>,
}

impl Flow {
    /// Whether the flow covers a destination port.
    #[inline]
    pub fn covers_port(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }

    /// The flow as the XDP program sees it, at position `index` of the workers' table.
    pub fn rule(&self, index: u32) -> FlowRule {
        let mut flags = 0;
        for (set, flag) in [
            (self.sealed, FlowRule::SEALED),
            (self.send, FlowRule::SEND),
            (self.receive, FlowRule::RECEIVE),
            (self.transit, FlowRule::TRANSIT),
            (self.send_standby, FlowRule::SEND_STANDBY),
            (self.receive_standby, FlowRule::RECEIVE_STANDBY),
            (!self.sources.is_empty(), FlowRule::SOURCES),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let mut ports = [0; MAX_PORTS];
        for (slot, port) in ports.iter_mut().zip(&self.ports) {
            *slot = *port;
        }
        FlowRule {
            group: *self.group.mapped(),
            prefix_len: self.group.mapped_prefix_len(),
            flags,
            port_count: self.ports.len().min(MAX_PORTS) as u8,
            reserved: 0,
            flow: index,
            ports,
            reserved2: [0; 8],
        }
    }
}

/// Bounds of the queue of packets that wait for a key, per flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldLimits {
    /// Packets.
    pub packets: usize,
    /// Bytes.
    pub bytes: usize,
    /// How long a packet waits.
    pub hold: Duration,
}

impl Default for HoldLimits {
    fn default() -> Self {
        Self { packets: 64, bytes: 256 << 10, hold: Duration::from_millis(500) }
    }
}

/// Everything the workers forward by.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Flows; a flow keeps its position as long as it exists.
    pub flows: Vec<Option<Flow>>,
    /// Position of the flow of a single group, by mapped address.
    by_address: HashMap<[u8; 16], u32>,
    /// Positions of the flows of prefixes, longest first.
    prefixes: Vec<u32>,
    /// Ports of the trusted side.
    pub trusted: PortSet,
    /// Ports of the untrusted side.
    pub untrusted: PortSet,
    /// Packets behind the newest that the replay windows still accept.
    pub replay_window: usize,
    /// Bounds of the key queue.
    pub hold: HoldLimits,
    /// TTL or hop limit of sealed packets.
    pub outer_ttl: u8,
}

impl Tables {
    /// The table after this one with exactly `flows` in it: what stays keeps its position, what is new takes a free one.
    pub fn with_flows(&self, flows: Vec<Flow>) -> Self {
        let mut table: Vec<Option<Flow>> = vec![None; self.flows.len()];
        let mut position: HashMap<Group, usize> = HashMap::new();
        for (index, flow) in self.flows.iter().enumerate() {
            if let Some(flow) = flow {
                position.insert(flow.group, index);
            }
        }
        let (kept, new): (Vec<Flow>, Vec<Flow>) =
            flows.into_iter().partition(|flow| position.contains_key(&flow.group));
        for flow in kept {
            let index = position[&flow.group];
            table[index] = Some(flow);
        }
        // A freed position is not reused in the same step: packets for the old flow may be on their way to the worker.
        let mut free = self.flows.iter().enumerate().filter(|(_, flow)| flow.is_none()).map(|(index, _)| index);
        for flow in new {
            match free.next() {
                Some(index) => table[index] = Some(flow),
                None => table.push(Some(flow)),
            }
        }
        let mut by_address = HashMap::new();
        let mut prefixes = Vec::new();
        for (index, flow) in table.iter().enumerate() {
            let Some(flow) = flow else { continue };
            if flow.group.is_single() {
                by_address.insert(*flow.group.mapped(), index as u32);
            } else {
                prefixes.push(index as u32);
            }
        }
        let length = |index: &u32| table[*index as usize].as_ref().map_or(0, |flow| flow.group.mapped_prefix_len());
        prefixes.sort_by_key(|index| std::cmp::Reverse(length(index)));
        Self { flows: table, by_address, prefixes, ..self.clone() }
    }

    /// The flow at a position.
    #[inline]
    pub fn flow(&self, index: u32) -> Option<&Flow> {
        self.flows.get(index as usize)?.as_ref()
    }

    /// Position of the flow that covers a mapped group address.
    pub fn find(&self, address: &[u8; 16]) -> Option<u32> {
        if let Some(index) = self.by_address.get(address) {
            return Some(*index);
        }
        self.prefixes.iter().copied().find(|&index| self.flow(index).is_some_and(|flow| flow.group.contains(address)))
    }

    /// Position of the flow of exactly this group.
    pub fn find_group(&self, group: &Group) -> Option<u32> {
        if group.is_single() {
            return self.by_address.get(group.mapped()).copied();
        }
        self.prefixes.iter().copied().find(|&index| self.flow(index).is_some_and(|flow| flow.group == *group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemcast_proto::id::map_v4;

    fn flow(group: &str) -> Flow {
        Flow {
            group: group.parse().unwrap(),
            sealed: true,
            send: true,
            receive: true,
            transit: false,
            send_standby: false,
            receive_standby: false,
            ports: Vec::new(),
            sources: Vec::new(),
        }
    }

    #[test]
    fn a_flow_keeps_its_position_and_a_freed_one_rests_for_a_step() {
        let first = Tables::default().with_flows(vec![flow("239.1.1.1"), flow("239.1.1.2")]);
        let second = first.with_flows(vec![flow("239.1.1.2"), flow("239.1.1.3")]);
        assert_eq!(first.find(&map_v4([239, 1, 1, 2])), second.find(&map_v4([239, 1, 1, 2])));
        assert_eq!(second.find(&map_v4([239, 1, 1, 1])), None);
        assert_eq!(second.find(&map_v4([239, 1, 1, 3])), Some(2), "not the position just freed");
        let third = second.with_flows(vec![flow("239.1.1.2"), flow("239.1.1.3"), flow("239.1.1.4")]);
        assert_eq!(third.find(&map_v4([239, 1, 1, 4])), Some(0));
    }

    #[test]
    fn the_longest_prefix_wins() {
        let tables = Tables::default().with_flows(vec![flow("239.0.0.0/8"), flow("239.1.0.0/16"), flow("239.1.1.1")]);
        let found = |address| tables.flow(tables.find(&map_v4(address)).unwrap()).unwrap().group.to_string();
        assert_eq!(found([239, 1, 1, 1]), "239.1.1.1");
        assert_eq!(found([239, 1, 1, 2]), "239.1.0.0/16");
        assert_eq!(found([239, 2, 1, 2]), "239.0.0.0/8");
        assert_eq!(tables.find(&map_v4([238, 2, 1, 2])), None);
    }

    #[test]
    fn a_port_set_gives_its_ports_once() {
        let mut set = PortSet::default();
        set.insert(0);
        set.insert(5);
        set.insert(15);
        let mut without = set.without(5);
        assert_eq!((without.pop(), without.pop(), without.pop()), (Some(0), Some(15), None));
    }
}
