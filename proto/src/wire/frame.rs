//! The sealed packet on the wire, version 1.
//!
//! ```text
//!  0  version u4 = 1 | type u4
//!  1  flags u8
//!  2  gak_epoch u16
//!  4  key_id u32
//!  8  ctr u64          lane u8 ‖ seq u56, starts at 1
//! 16  gtag u64         SipHash-2-4(K_gtag, AAD ‖ ciphertext length u16)
//! 24  AEAD { sport u16, dport u16, ttl u8, tos u8, udp checksum u16, payload } ‖ tag 16
//! ```
//! All fields big-endian. AAD = flags ‖ gak_epoch ‖ key_id ‖ ctr ‖ source ‖ group: the addresses as the origin sent
//! them, 4 + 4 or 16 + 16 bytes.

use crate::id::{Counter, Epoch, KeyId};
use crate::reason::Reason;
use crate::wire::classify::Family;
use crate::wire::siphash::siphash24;

/// UDP destination port of sealed packets.
pub const PORT: u16 = 48623;
/// Version of this format.
pub const VERSION: u8 = 1;
/// Length of the header in front of the ciphertext.
pub const HEADER_LEN: usize = 24;
/// Length of the inner header that travels encrypted in front of the payload.
pub const INNER_LEN: usize = 8;
/// Length of the AEAD tag.
pub const TAG_LEN: usize = 16;
/// How many bytes sealing puts in front of the payload: what a frame has to grow by at its head.
pub const ROOM: usize = HEADER_LEN + INNER_LEN;
/// How many bytes sealing adds to a frame.
pub const OVERHEAD: usize = ROOM + TAG_LEN;
/// Length of the AEAD nonce.
pub const NONCE_LEN: usize = 12;
/// Length of the AAD of an IPv4 packet.
pub const AAD_V4_LEN: usize = 15 + 8;
/// Length of the AAD of an IPv6 packet.
pub const AAD_V6_LEN: usize = 15 + 32;

/// First of the outer source ports; the port is chosen by key and lane from here to 65535.
const SOURCE_PORT_BASE: u16 = 49152;

/// How the packet is carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// The outer source and group are the origin's own.
    Native = 0,
}

/// The 24 bytes in front of the ciphertext, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// How the packet is carried.
    pub kind: Kind,
    /// GAK epoch of the group tag and the traffic key.
    pub epoch: Epoch,
    /// The source's key.
    pub key_id: KeyId,
    /// The packet's counter under that key.
    pub ctr: Counter,
    /// The group tag, to be compared with [`Header::gtag_v4`] or [`Header::gtag_v6`].
    pub gtag: u64,
}

impl Header {
    /// Reads a header. Fails with the drop reason for another version, an unknown type or an unknown flag.
    #[inline(always)]
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, Reason> {
        if bytes[0] >> 4 != VERSION {
            return Err(Reason::Version);
        }
        if bytes[0] & 0x0f != Kind::Native as u8 {
            return Err(Reason::Kind);
        }
        if bytes[1] != 0 {
            return Err(Reason::Flags);
        }
        Ok(Self {
            kind: Kind::Native,
            epoch: Epoch(u16::from_be_bytes([bytes[2], bytes[3]])),
            key_id: KeyId(u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])),
            ctr: Counter(u64::from_be_bytes([
                bytes[8], bytes[9], bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15],
            ])),
            gtag: u64::from_be_bytes([
                bytes[16], bytes[17], bytes[18], bytes[19], bytes[20], bytes[21], bytes[22], bytes[23],
            ]),
        })
    }

    /// The header's bytes.
    #[inline(always)]
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = (VERSION << 4) | self.kind as u8;
        bytes[2..4].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.key_id.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.ctr.0.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.gtag.to_be_bytes());
        bytes
    }

    /// Additional authenticated data of an IPv4 packet, addresses IPv4-mapped as [`crate::wire::classify::Datagram`] has them.
    #[inline(always)]
    pub fn aad_v4(&self, source: &[u8; 16], group: &[u8; 16]) -> [u8; AAD_V4_LEN] {
        bytes(self.aad_words_v4(source, group))
    }

    /// Additional authenticated data of an IPv6 packet.
    #[inline(always)]
    pub fn aad_v6(&self, source: &[u8; 16], group: &[u8; 16]) -> [u8; AAD_V6_LEN] {
        bytes(self.aad_words_v6(source, group))
    }

    /// The group tag of an IPv4 packet under the key halves `k0`, `k1`; `ciphertext_len` counts the AEAD's output, tag
    /// included.
    #[inline(always)]
    pub fn gtag_v4(&self, k0: u64, k1: u64, source: &[u8; 16], group: &[u8; 16], ciphertext_len: u16) -> u64 {
        gtag(k0, k1, self.aad_words_v4(source, group), ciphertext_len)
    }

    /// The group tag of an IPv6 packet.
    #[inline(always)]
    pub fn gtag_v6(&self, k0: u64, k1: u64, source: &[u8; 16], group: &[u8; 16], ciphertext_len: u16) -> u64 {
        gtag(k0, k1, self.aad_words_v6(source, group), ciphertext_len)
    }

    // The AAD in big-endian words, one byte short of whole ones: addresses begin at the last byte of a word.

    #[inline(always)]
    fn aad_words_v4(&self, source: &[u8; 16], group: &[u8; 16]) -> [u64; 3] {
        let [first, second] = self.aad_fields();
        let addresses = (word(source, 8) << 32) | (word(group, 8) & 0xffff_ffff);
        [first, second | (addresses >> 56), addresses << 8]
    }

    #[inline(always)]
    fn aad_words_v6(&self, source: &[u8; 16], group: &[u8; 16]) -> [u64; 6] {
        let [first, second] = self.aad_fields();
        let (s0, s1, g0, g1) = (word(source, 0), word(source, 8), word(group, 0), word(group, 8));
        [first, second | (s0 >> 56), (s0 << 8) | (s1 >> 56), (s1 << 8) | (g0 >> 56), (g0 << 8) | (g1 >> 56), g1 << 8]
    }

    /// Flags, epoch, key id and counter, with one byte free.
    #[inline(always)]
    fn aad_fields(&self) -> [u64; 2] {
        let epoch_and_key = ((self.epoch.0 as u64) << 40) | ((self.key_id.0 as u64) << 8);
        [epoch_and_key | (self.ctr.0 >> 56), self.ctr.0 << 8]
    }

    /// The outer UDP source port that belongs to this key and lane. Bound to them, so that a receiver's queues see all
    /// packets of a lane on one queue, and a replay cannot be steered past that queue's window by altering the port.
    #[inline(always)]
    pub fn source_port(&self) -> u16 {
        let mixed = (self.key_id.0 ^ ((self.ctr.lane() as u32) << 24)).wrapping_mul(0x9e37_79b1);
        SOURCE_PORT_BASE | (mixed >> 18) as u16
    }
}

/// SipHash-2-4 of the AAD and, behind it, the ciphertext's length.
#[inline(always)]
fn gtag<const WORDS: usize>(k0: u64, k1: u64, mut aad: [u64; WORDS], ciphertext_len: u16) -> u64 {
    aad[WORDS - 1] |= (ciphertext_len >> 8) as u64;
    let mut i = 0;
    while i < WORDS {
        aad[i] = aad[i].swap_bytes();
        i += 1;
    }
    siphash24(k0, k1, aad, (ciphertext_len & 0xff) as u64, 8 * WORDS + 1)
}

/// Eight bytes of an address as a big-endian number.
#[inline(always)]
fn word(address: &[u8; 16], at: usize) -> u64 {
    let a = address;
    u64::from_be_bytes([a[at], a[at + 1], a[at + 2], a[at + 3], a[at + 4], a[at + 5], a[at + 6], a[at + 7]])
}

/// The bytes of big-endian words, as many as there is room for.
#[inline(always)]
fn bytes<const WORDS: usize, const LEN: usize>(words: [u64; WORDS]) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    for (bytes, word) in bytes.chunks_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_be_bytes()[..bytes.len()]);
    }
    bytes
}

/// The AEAD nonce: salt ⊕ (0³² ‖ ctr).
#[inline(always)]
pub fn nonce(salt: &[u8; NONCE_LEN], ctr: Counter) -> [u8; NONCE_LEN] {
    let mut nonce = *salt;
    for (byte, counter) in nonce[4..].iter_mut().zip(ctr.0.to_be_bytes()) {
        *byte ^= counter;
    }
    nonce
}

/// The inner header: what of the original packet is hidden and comes back on the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inner {
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub destination_port: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// UDP checksum, unchanged end to end.
    pub checksum: u16,
}

impl Inner {
    /// Reads an inner header.
    #[inline(always)]
    pub fn parse(bytes: &[u8; INNER_LEN]) -> Self {
        Self {
            source_port: u16::from_be_bytes([bytes[0], bytes[1]]),
            destination_port: u16::from_be_bytes([bytes[2], bytes[3]]),
            ttl: bytes[4],
            tos: bytes[5],
            checksum: u16::from_be_bytes([bytes[6], bytes[7]]),
        }
    }

    /// The inner header's bytes.
    #[inline(always)]
    pub fn emit(&self) -> [u8; INNER_LEN] {
        let mut bytes = [0; INNER_LEN];
        bytes[0..2].copy_from_slice(&self.source_port.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.destination_port.to_be_bytes());
        bytes[4] = self.ttl;
        bytes[5] = self.tos;
        bytes[6..8].copy_from_slice(&self.checksum.to_be_bytes());
        bytes
    }
}

/// Ethernet address of a group: RFC 1112 §6.4, RFC 2464 §7.
#[inline(always)]
pub fn group_mac(family: Family, group: &[u8; 16]) -> [u8; 6] {
    match family {
        Family::V4 => [0x01, 0x00, 0x5e, group[13] & 0x7f, group[14], group[15]],
        Family::V6 => [0x33, 0x33, group[12], group[13], group[14], group[15]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::map_v4;

    const HEADER: Header = Header {
        kind: Kind::Native,
        epoch: Epoch(0x0102),
        key_id: KeyId(0x0304_0506),
        ctr: Counter(0x0708_090a_0b0c_0d0e),
        gtag: 0x1112_1314_1516_1718,
    };

    #[test]
    fn header_bytes() {
        let bytes = HEADER.emit();
        assert_eq!(
            bytes,
            [
                0x10, 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x11,
                0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18
            ]
        );
        assert_eq!(Header::parse(&bytes), Ok(HEADER));
    }

    #[test]
    fn what_this_version_does_not_know_has_its_reason() {
        let altered = |at: usize, value: u8| {
            let mut bytes = HEADER.emit();
            bytes[at] = value;
            Header::parse(&bytes)
        };
        assert_eq!(altered(0, 0x20), Err(Reason::Version));
        assert_eq!(altered(0, 0x1f), Err(Reason::Kind));
        assert_eq!(altered(1, 0x80), Err(Reason::Flags));
    }

    #[test]
    fn aad_bytes() {
        let aad = HEADER.aad_v4(&map_v4([10, 0, 0, 1]), &map_v4([239, 1, 1, 1]));
        assert_eq!(aad, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 10, 0, 0, 1, 239, 1, 1, 1]);
        let mut group = [0; 16];
        group[0] = 0xff;
        assert_eq!(HEADER.aad_v6(&[5; 16], &group)[15..], [[5; 16], group].concat());
    }

    #[test]
    fn the_tag_covers_every_field_and_the_length() {
        let source = map_v4([10, 0, 0, 1]);
        let group = map_v4([239, 1, 1, 1]);
        let tag = |header: &Header, source: &[u8; 16], length| header.gtag_v4(1, 2, source, &group, length);
        let good = tag(&HEADER, &source, 100);
        assert_ne!(good, tag(&HEADER, &source, 101));
        assert_ne!(good, tag(&HEADER, &map_v4([10, 0, 0, 2]), 100));
        for altered in [
            Header { epoch: Epoch(1), ..HEADER },
            Header { key_id: KeyId(1), ..HEADER },
            Header { ctr: Counter(1), ..HEADER },
        ] {
            assert_ne!(good, tag(&altered, &source, 100));
        }
    }

    #[test]
    fn the_nonce_is_salt_xor_counter() {
        let salt = [0xf0; 12];
        assert_eq!(
            nonce(&salt, Counter(0x0102_0304_0506_0708)),
            [0xf0, 0xf0, 0xf0, 0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8]
        );
    }

    #[test]
    fn inner_header_round_trips() {
        let bytes = [0x13, 0x88, 0x13, 0x89, 16, 0xb8, 0xab, 0xcd];
        let inner = Inner::parse(&bytes);
        assert_eq!((inner.source_port, inner.destination_port, inner.ttl), (5000, 5001, 16));
        assert_eq!(inner.emit(), bytes);
    }

    #[test]
    fn source_ports_are_ephemeral_and_tell_lanes_apart() {
        let ports: std::collections::BTreeSet<u16> =
            (0..16).map(|lane| Header { ctr: Counter::new(lane, 1), ..HEADER }.source_port()).collect();
        assert!(ports.iter().all(|&port| port >= SOURCE_PORT_BASE));
        assert!(ports.len() > 12);
    }
}
