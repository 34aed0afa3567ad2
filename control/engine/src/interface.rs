//! A Babel interface: its Hello series, its packet counter, and what waits to be sent by it.

use crate::input;
use crate::mac::INDEX_LEN;
use crate::time::Instant;
use core::net::Ipv6Addr;
use gemcast_proto::wire::babel::{Full, RawTlv, Seqno, Tlv, Writer};
use gemcast_proto::wire::gem::ObjectName;
use std::collections::BTreeMap;

/// IPv6 and UDP headers.
const UNDERLYING_HEADERS: usize = 40 + 8;
/// Largest packet, whatever the MTU.
const MAX_PACKET_LEN: usize = 9000;
/// TLVs waiting for one destination; what is more, is dropped, and repaired by the next periodic update.
const MAX_PENDING: usize = 65_536;

/// Something to be put into a packet.
pub(crate) enum Message {
    /// A TLV that borrows nothing.
    Tlv(Tlv<'static>),
    /// Any other TLV.
    Bytes {
        /// Type.
        kind: u8,
        /// Body.
        body: Box<[u8]>,
    },
}

impl Message {
    pub(crate) fn write(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        match self {
            Self::Tlv(tlv) => writer.push(tlv),
            Self::Bytes { kind, body } => writer.push(&Tlv::Other(RawTlv { kind: *kind, body })),
        }
    }
}

/// What waits for one destination.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) messages: Vec<Message>,
    pub(crate) at: Option<Instant>,
}

impl Outbox {
    /// Adds a message that is to leave at `at` at the latest.
    pub(crate) fn push(&mut self, message: Message, at: Instant) {
        if self.messages.len() < MAX_PENDING {
            self.messages.push(message);
            self.at = Some(self.at.map_or(at, |old| old.min(at)));
        }
    }
}

/// Objects being flooded by an interface.
#[derive(Default)]
pub(crate) struct Flood {
    /// How many times each is still to be sent.
    pub(crate) sends_left: BTreeMap<ObjectName, u8>,
    pub(crate) at: Option<Instant>,
}

/// One interface.
pub(crate) struct Interface {
    pub(crate) info: input::Interface,
    pub(crate) hello_seqno: Seqno,
    pub(crate) hello_at: Instant,
    pub(crate) update_at: Instant,
    /// Names our incarnation to the neighbours (RFC 8967 §3.1).
    pub(crate) index: [u8; INDEX_LEN],
    /// Last packet counter used.
    pub(crate) counter: u32,
    pub(crate) multicast: Outbox,
    pub(crate) unicast: BTreeMap<Ipv6Addr, Outbox>,
    pub(crate) flood: Flood,
    /// When the digest is to be told, ahead of the next Hello.
    pub(crate) digest_at: Option<Instant>,
    /// Hellos that still carry the digest, because the table changed a moment ago.
    pub(crate) digests_left: u8,
}

impl Interface {
    /// Room for a packet with its trailer.
    pub(crate) fn packet_len(&self) -> usize {
        let mtu = usize::try_from(self.info.mtu).unwrap_or(MAX_PACKET_LEN);
        // RFC 8966 §4: MUST NOT send packets larger than the interface MTU or 512 octets, whichever is larger.
        mtu.saturating_sub(UNDERLYING_HEADERS).clamp(512, MAX_PACKET_LEN)
    }

    pub(crate) fn outbox(&mut self, destination: Option<Ipv6Addr>) -> &mut Outbox {
        match destination {
            None => &mut self.multicast,
            Some(address) => self.unicast.entry(address).or_default(),
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let unicast = self.unicast.values().filter_map(|outbox| outbox.at).min();
        let fixed = [Some(self.hello_at), Some(self.update_at), self.digest_at, self.multicast.at, self.flood.at];
        fixed.into_iter().flatten().chain(unicast).min()
    }
}
