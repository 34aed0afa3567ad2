//! Sealing: a cleartext datagram, with room in front of it, becomes a sealed packet in place.
//!
//! ```text
//! before: room 32 | Ethernet 14 | IP | UDP 8            | payload
//! after:  Ethernet 14 | IP | UDP 8 | header 24 | inner 8 | payload | tag 16
//! ```
//! The payload does not move.

use crate::aead::Aead;
use crate::replay::SEQ_END;
use gemcast_proto::id::{Counter, Epoch, Group, KeyId};
use gemcast_proto::reason::Reason;
use gemcast_proto::wire::classify::{Datagram, ETHERNET_LEN, Family, IPV4_LEN, IPV6_LEN, UDP_LEN, ipv4_checksum};
use gemcast_proto::wire::frame::{HEADER_LEN, Header, INNER_LEN, Inner, Kind, PORT, ROOM, TAG_LEN, group_mac};
use gemcast_xdp::counters::Counters;
use gemcast_xdp::layout::SipKey;
use gemcast_xdp::seks::{Sek, SekRole, Seks, SlotIndex};
use std::hint::black_box;

/// A key of ours, ready to seal in one worker's lane.
pub struct SealKey {
    slot: SlotIndex,
    sequence: u32,
    key_id: KeyId,
    epoch: Epoch,
    aead: Aead,
    gtag: SipKey,
    not_after_ms: u64,
    counter_block: u32,
    lane: u8,
    /// Next sequence number, and the first one that is not reserved.
    next: u64,
    reserved: u64,
    /// First sequence number this lane must not use.
    limit: u64,
}

impl SealKey {
    /// Finds and expands the active key of a group; `workers` share what a key may seal.
    pub fn find(seks: &Seks, group: &Group, lane: u8, workers: u8) -> Option<Self> {
        let (slot, sequence, sek) = seks.find_seal(group)?;
        Self::expand(slot, sequence, &sek, lane, workers)
    }

    fn expand(slot: SlotIndex, sequence: u32, sek: &Sek, lane: u8, workers: u8) -> Option<Self> {
        let SekRole::Seal { counter_block, .. } = sek.role else { return None };
        Some(Self {
            slot,
            sequence,
            key_id: sek.key_id,
            epoch: sek.epoch,
            aead: Aead::new(sek.suite, &sek.key, sek.salt),
            gtag: SipKey::new(&sek.gtag),
            not_after_ms: sek.not_after_ms,
            counter_block,
            lane,
            next: 0,
            reserved: 0,
            limit: SEQ_END / u64::from(workers.max(1)),
        })
    }

    /// The same key from its rewritten slot, going on with the counters this worker holds.
    pub fn find_again(&self, seks: &Seks, group: &Group, workers: u8) -> Option<Self> {
        let mut fresh = Self::find(seks, group, self.lane, workers)?;
        if fresh.key_id == self.key_id && fresh.counter_block == self.counter_block {
            (fresh.next, fresh.reserved) = (self.next, self.reserved);
        }
        Some(fresh)
    }

    /// Whether the map still holds what this was expanded from.
    #[inline]
    pub fn is_current(&self, seks: &Seks) -> bool {
        seks.is_unchanged(self.slot, self.sequence)
    }

    /// The next counter, never given before: not by this worker, and not by one that crashed.
    #[inline]
    fn next_counter(&mut self, counters: &Counters) -> Result<Counter, Reason> {
        if self.next == self.reserved {
            self.reserve(counters)?;
        }
        if self.next >= self.limit {
            return Err(Reason::CounterExhausted);
        }
        let counter = Counter::new(self.lane, self.next);
        self.next += 1;
        Ok(counter)
    }

    #[cold]
    fn reserve(&mut self, counters: &Counters) -> Result<(), Reason> {
        let range = counters.reserve(self.counter_block, self.key_id, self.lane).ok_or(Reason::NoSealKey)?;
        // A map that gives a range again was rolled back or overwritten: this key's counters are no longer safe.
        if range.start < self.reserved {
            return Err(Reason::NoSealKey);
        }
        (self.next, self.reserved) = (range.start, range.end);
        Ok(())
    }
}

/// Seals the datagram that `frame` holds behind [`ROOM`] bytes. `frame` reaches past the datagram to the end of its buffer.
/// Returns the sealed frame's length; its Ethernet source is left to the egress.
#[inline]
pub fn seal(
    key: &mut SealKey,
    counters: &Counters,
    frame: &mut [u8],
    datagram: &Datagram,
    outer_ttl: u8,
    wall_ms: u64,
) -> Result<usize, Reason> {
    if wall_ms >= key.not_after_ms {
        return Err(Reason::NoSealKey);
    }
    let family = datagram.family;
    let ip_len = family.header_len();
    let inner_at = ETHERNET_LEN + ip_len + UDP_LEN + HEADER_LEN;
    let plaintext_len = INNER_LEN + datagram.payload_len;
    let tag_at = inner_at + plaintext_len;
    let total = tag_at + TAG_LEN;
    if total > frame.len() {
        return Err(Reason::MtuExceeded);
    }
    let ctr = key.next_counter(counters)?;
    let mut header = Header { kind: Kind::Native, epoch: key.epoch, key_id: key.key_id, ctr, gtag: 0 };
    let inner = Inner {
        source_port: datagram.source_port,
        destination_port: datagram.destination_port,
        ttl: datagram.ttl,
        tos: datagram.tos,
        checksum: datagram.checksum,
    };
    frame[inner_at..inner_at + INNER_LEN].copy_from_slice(&inner.emit());
    let ciphertext_len = (plaintext_len + TAG_LEN) as u16;
    let (source, group) = (&datagram.source, &datagram.group);
    let plaintext = &mut frame[inner_at..tag_at];
    // `black_box` keeps the group tag in front of the AEAD, where the processor overlaps the two; behind it, the compiler's
    // choice, their latencies add up.
    let tag = match family {
        Family::V4 => {
            header.gtag = black_box(header.gtag_v4(key.gtag.k0, key.gtag.k1, source, group, ciphertext_len));
            key.aead.seal(ctr, &header.aad_v4(source, group), plaintext)
        }
        Family::V6 => {
            header.gtag = header.gtag_v6(key.gtag.k0, key.gtag.k1, source, group, ciphertext_len);
            key.aead.seal(ctr, &header.aad_v6(source, group), plaintext)
        }
    };
    frame[tag_at..total].copy_from_slice(&tag);
    frame[inner_at - HEADER_LEN..inner_at].copy_from_slice(&header.emit());
    let source_port = header.source_port();
    let udp_len = (UDP_LEN + HEADER_LEN + usize::from(ciphertext_len)) as u16;
    write_headers(frame, datagram, datagram.tos, outer_ttl, udp_len, source_port);
    let udp = ETHERNET_LEN + ip_len;
    frame[udp..udp + 2].copy_from_slice(&source_port.to_be_bytes());
    frame[udp + 2..udp + 4].copy_from_slice(&PORT.to_be_bytes());
    frame[udp + 4..udp + 6].copy_from_slice(&udp_len.to_be_bytes());
    // No checksum: the AEAD does better, and RFC 6935 allows it for IPv6 where the payload has its own integrity.
    frame[udp + 6..udp + 8].copy_from_slice(&[0, 0]);
    Ok(total)
}

/// Writes the Ethernet destination and type and the IP header for a datagram of `udp_len` bytes, header included.
#[inline]
pub(crate) fn write_headers(frame: &mut [u8], datagram: &Datagram, tos: u8, ttl: u8, udp_len: u16, entropy: u16) {
    frame[..6].copy_from_slice(&group_mac(datagram.family, &datagram.group));
    match datagram.family {
        Family::V4 => {
            let mut ip = [0u8; IPV4_LEN];
            ip[0] = 0x45;
            ip[1] = tos;
            ip[2..4].copy_from_slice(&(IPV4_LEN as u16 + udp_len).to_be_bytes());
            // Don't fragment; an atomic datagram needs no identification (RFC 6864 §4).
            ip[6] = 0x40;
            ip[8] = ttl;
            ip[9] = 17;
            ip[12..16].copy_from_slice(&datagram.source[12..]);
            ip[16..20].copy_from_slice(&datagram.group[12..]);
            let checksum = ipv4_checksum(&ip);
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            frame[ETHERNET_LEN..ETHERNET_LEN + IPV4_LEN].copy_from_slice(&ip);
        }
        Family::V6 => {
            let mut ip = [0u8; IPV6_LEN];
            // The flow label carries the outer port's entropy for ECMP (RFC 6438).
            let label = u32::from(entropy);
            let first = 0x6000_0000 | u32::from(tos) << 20 | label;
            ip[0..4].copy_from_slice(&first.to_be_bytes());
            ip[4..6].copy_from_slice(&udp_len.to_be_bytes());
            ip[6] = 17;
            ip[7] = ttl;
            ip[8..24].copy_from_slice(&datagram.source);
            ip[24..40].copy_from_slice(&datagram.group);
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame[ETHERNET_LEN..ETHERNET_LEN + IPV6_LEN].copy_from_slice(&ip);
        }
    }
}

const _: () = assert!(ROOM == HEADER_LEN + INNER_LEN, "the inner header lands on the old UDP header");
