//! Layouts of the maps that the XDP program reads or writes.

use core::mem::{offset_of, size_of};
use gemcast_proto::id::{Epoch, Group};
use gemcast_proto::reason::Reason;

/// Interfaces a data plane can serve; an interface's slot is below this.
pub const MAX_INTERFACES: u32 = 32;
/// Receive queues (and so workers) a data plane can serve.
pub const MAX_QUEUES: u32 = 16;

/// Index into `XSKS` of the socket for receive queue `queue` of interface slot `slot`.
#[inline(always)]
pub const fn xsk_index(slot: u32, queue: u32) -> u32 {
    slot * MAX_QUEUES + queue
}

/// One counter of an interface in `STATS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stat {
    /// Frames that reached the program.
    Received,
    /// Frames redirected to a worker.
    Redirected,
    /// Frames passed or dropped for a reason.
    Reason(Reason),
}

/// Counters per interface in `STATS`.
pub const STATS_PER_INTERFACE: u32 = 2 + Reason::COUNT as u32;

/// Index into `STATS` of counter `stat` of interface slot `slot`.
#[inline(always)]
pub const fn stat_index(slot: u32, stat: Stat) -> u32 {
    slot * STATS_PER_INTERFACE
        + match stat {
            Stat::Received => 0,
            Stat::Redirected => 1,
            Stat::Reason(reason) => 2 + reason as u32,
        }
}

/// Destination ports a flow can name.
pub const MAX_PORTS: usize = 16;

/// What to do with a group's packets: the value of `FLOWS` and `FLOW_PREFIXES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct FlowRule {
    /// Address of the configured group or prefix, 16 bytes.
    pub group: [u8; 16],
    /// Its prefix length, counted in 128 bits.
    pub prefix_len: u8,
    /// [`FlowRule::SEALED`] and the others.
    pub flags: u8,
    /// How many of `ports` are set; 0 means any port.
    pub port_count: u8,
    /// Zero.
    pub reserved: u8,
    /// Index into the workers' flow table.
    pub flow: u32,
    /// Destination ports, host order.
    pub ports: [u16; MAX_PORTS],
    /// Zero.
    pub reserved2: [u8; 8],
}

impl FlowRule {
    /// Sealed on untrusted interfaces; without it the group is relayed in the clear.
    pub const SEALED: u8 = 1;
    /// Packets from trusted interfaces are forwarded.
    pub const SEND: u8 = 2;
    /// Packets from untrusted interfaces are delivered.
    pub const RECEIVE: u8 = 4;
    /// Only sources listed in `SOURCES`.
    pub const SOURCES: u8 = 8;
    /// Sealed packets are relayed between untrusted interfaces, for the keys in `TRANSIT`.
    pub const TRANSIT: u8 = 16;
    /// Another gateway of the LAN forwards packets from trusted interfaces: ours are dropped.
    pub const SEND_STANDBY: u8 = 32;
    /// Another gateway of the LAN delivers packets from untrusted interfaces: ours are dropped.
    pub const RECEIVE_STANDBY: u8 = 64;

    /// Whether all of `flags` are set.
    #[inline(always)]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Whether the rule covers a destination port.
    #[inline(always)]
    pub fn covers_port(&self, port: u16) -> bool {
        if self.port_count == 0 {
            return true;
        }
        let mut found = false;
        // A fixed trip count, so that the verifier needs no bound on port_count.
        for (i, &candidate) in self.ports.iter().enumerate() {
            found |= i < self.port_count as usize && candidate == port;
        }
        found
    }
}

/// Key of `GATEWAYS`: an Ethernet address, filled up with zeroes.
pub type GatewayKey = [u8; 8];

/// The key of an Ethernet address.
#[inline(always)]
pub const fn gateway_key(mac: [u8; 6]) -> GatewayKey {
    let [m0, m1, m2, m3, m4, m5] = mac;
    [m0, m1, m2, m3, m4, m5, 0, 0]
}

/// Value of `GATEWAYS`: frames of configured groups from that address. CPUs may count at the same time and lose some: only
/// whether a count moves is of interest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct GatewayCount {
    /// Frames.
    pub frames: u64,
    /// Of these, frames of groups that are forwarded here.
    pub conflicts: u64,
}

/// Key of `SOURCES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct SourceKey {
    /// [`FlowRule::flow`].
    pub flow: u32,
    /// Source address, 16 bytes, IPv4-mapped for IPv4.
    pub source: [u8; 16],
}

/// Key of `GTAG`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct GtagKey {
    /// Address of the configured group or prefix, 16 bytes.
    pub group: [u8; 16],
    /// Its prefix length, counted in 128 bits.
    pub prefix_len: u8,
    /// Zero.
    pub reserved: u8,
    /// GAK epoch, host order.
    pub epoch: u16,
}

impl GtagKey {
    /// The key of a group and epoch.
    pub fn new(group: &Group, epoch: Epoch) -> Self {
        Self { group: *group.mapped(), prefix_len: group.mapped_prefix_len(), reserved: 0, epoch: epoch.0 }
    }
}

/// Value of `GTAG`: a SipHash-2-4 key, as its two little-endian halves.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SipKey {
    /// Bytes 0–7.
    pub k0: u64,
    /// Bytes 8–15.
    pub k1: u64,
}

impl SipKey {
    /// From 16 key bytes.
    pub fn new(key: &[u8; 16]) -> Self {
        let word = |i: usize| u64::from_le_bytes(core::array::from_fn(|j| key[i + j]));
        Self { k0: word(0), k1: word(8) }
    }
}

/// What the XDP program tells the worker about a frame, in the frame's first bytes: in the room it made in front, or over
/// the Ethernet addresses, which the egress writes anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Mark {
    magic: [u8; 3],
    /// [`Mark::SEAL`] and the others; none to relay in the clear.
    pub flags: u8,
    /// [`FlowRule::flow`], native order.
    pub flow: u32,
}

impl Mark {
    /// To be sealed: room for the headers is in front of the frame.
    pub const SEAL: u8 = 1;
    /// Sealed, to be opened.
    pub const OPEN: u8 = 2;
    /// Sealed, to be relayed as it is.
    pub const TRANSIT: u8 = 4;
    /// Tells a frame of our program from any other.
    const MAGIC: [u8; 3] = *b"\x02gc";

    /// A mark.
    #[inline(always)]
    pub const fn new(flags: u8, flow: u32) -> Self {
        Self { magic: Self::MAGIC, flags, flow }
    }

    /// The mark a frame starts with, if there is one.
    #[inline(always)]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let [magic @ .., flags, f0, f1, f2, f3] = *frame.first_chunk::<8>()?;
        (magic == Self::MAGIC).then(|| Self { magic, flags, flow: u32::from_ne_bytes([f0, f1, f2, f3]) })
    }

    /// The mark's bytes.
    pub fn emit(&self) -> [u8; 8] {
        let [m0, m1, m2] = self.magic;
        let [f0, f1, f2, f3] = self.flow.to_ne_bytes();
        [m0, m1, m2, self.flags, f0, f1, f2, f3]
    }

    /// Whether any of `flags` is set.
    #[inline(always)]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

macro_rules! plain_data {
    ($($type:ty),*) => {
        $(
            #[cfg(feature = "aya")]
            // SAFETY: repr(C) of integers without padding (sizes asserted below); any bytes are a value.
            #[allow(unsafe_code)]
            unsafe impl aya::Pod for $type {}
        )*
    };
}
plain_data!(FlowRule, SourceKey, GtagKey, SipKey, GatewayCount);

const _: () = {
    assert!(size_of::<FlowRule>() == 64);
    assert!(offset_of!(FlowRule, flow) == 20);
    assert!(offset_of!(FlowRule, ports) == 24);
    assert!(size_of::<GatewayCount>() == 16);
    assert!(size_of::<SourceKey>() == 20);
    assert!(size_of::<GtagKey>() == 20);
    assert!(offset_of!(GtagKey, epoch) == 18);
    assert!(size_of::<SipKey>() == 16);
    assert!(size_of::<Mark>() == 8);
};
