//! Names and byte layouts of the BPF maps, shared by the XDP program, the data plane and the control process.
//!
//! A change to any layout here changes [`LAYOUT_VERSION`], which is part of the pin path: processes of two versions
//! never read each other's maps. Sizes and offsets are asserted at compile time.
#![no_std]
#![deny(unsafe_code)]

#[cfg(feature = "view")]
extern crate std;

#[cfg(feature = "view")]
pub mod counters;
pub mod layout;
#[cfg(feature = "view")]
pub mod seks;
#[cfg(feature = "view")]
pub mod sync;
#[cfg(feature = "view")]
pub mod view;

/// Version of every layout in this crate.
pub const LAYOUT_VERSION: u32 = 4;

/// Names of the maps, in the program's object and in the pin directory.
pub mod name {
    /// Source encryption keys, for user space only: [`crate::seks`].
    pub const SEKS: &str = "SEKS";
    /// Versions, incarnation, generation, heartbeats, removed keys: [`crate::sync`].
    pub const SYNC: &str = "SYNC";
    /// Reserved packet counters: [`crate::counters`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Single groups → [`crate::layout::FlowRule`], keyed by 16-byte address.
    pub const FLOWS: &str = "FLOWS";
    /// Prefixes of groups → [`crate::layout::FlowRule`], longest prefix match.
    pub const FLOW_PREFIXES: &str = "FLOW_PREFIXES";
    /// [`crate::layout::SourceKey`] → 1: sources of flows that name theirs.
    pub const SOURCES: &str = "SOURCES";
    /// [`crate::layout::GtagKey`] → [`crate::layout::SipKey`].
    pub const GTAG: &str = "GTAG";
    /// Key id → 1: keys whose packets are dropped.
    pub const BANS: &str = "BANS";
    /// Ethernet address, 6 bytes and 2 of zero → [`crate::layout::GatewayCount`]: other gateways on our trusted segments.
    pub const GATEWAYS: &str = "GATEWAYS";
    /// Key id → index of the interface whose packets under that key are relayed: the reverse path to the key's origin.
    pub const TRANSIT: &str = "TRANSIT";
    /// AF_XDP sockets by [`crate::layout::xsk_index`].
    pub const XSKS: &str = "XSKS";
    /// Per-CPU counters by [`crate::layout::stat_index`].
    pub const STATS: &str = "STATS";
}
