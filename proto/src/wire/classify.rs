//! Tells what a frame is, from its first bytes: the one parser that the XDP program, the workers and the tests share.
//!
//! ```text
//! Ethernet 14 | IPv4 20 (no options) or IPv6 40 (no extension headers) | UDP 8 | payload
//! ```
//! Only this shape is forwarded. Everything else has a reason of its own.

use crate::id::{is_link_local, map_v4};
use crate::reason::Reason;

/// Length of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Length of an IPv6 header without extensions.
pub const IPV6_LEN: usize = 40;
/// Length of a UDP header.
pub const UDP_LEN: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
const PROTOCOL_UDP: u8 = 17;
const NEXT_HEADER_FRAGMENT: u8 = 44;
/// Hop-by-hop, routing, fragment, authentication, destination options.
const EXTENSION_HEADERS: [u8; 5] = [0, 43, NEXT_HEADER_FRAGMENT, 51, 60];
const IPV4_FRAGMENT_MASK: u16 = 0x3fff;

/// A frame's bytes. In XDP each load is bounds-checked against `data_end`, in user space against the slice.
pub trait Frame {
    /// `N` bytes at `offset`, `None` past the end.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
    /// Length of the frame in bytes.
    fn length(&self) -> usize;
}

impl Frame for [u8] {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.len()
    }
}

/// IP version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Length of the IP header that is forwarded.
    #[inline(always)]
    pub const fn header_len(self) -> usize {
        match self {
            Self::V4 => IPV4_LEN,
            Self::V6 => IPV6_LEN,
        }
    }

    /// Offset of the UDP payload in a frame.
    #[inline(always)]
    pub const fn payload_offset(self) -> usize {
        ETHERNET_LEN + self.header_len() + UDP_LEN
    }
}

/// A whole UDP datagram to a multicast group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// IP version.
    pub family: Family,
    /// Source address, 16 bytes, IPv4-mapped for IPv4.
    pub source: [u8; 16],
    /// Group address, likewise.
    pub group: [u8; 16],
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub destination_port: u16,
    /// UDP checksum as it stands in the packet.
    pub checksum: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class: DSCP and ECN.
    pub tos: u8,
    /// Length of the UDP payload. It starts at [`Family::payload_offset`]; Ethernet padding may follow it.
    pub payload_len: usize,
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// A datagram to a group.
    Datagram(Datagram),
    /// Nothing gemcast ever forwards: for the kernel's own stack.
    Pass(Reason),
    /// A packet to a group that cannot be forwarded. Whether it is dropped or passed depends on the group.
    Defective {
        /// Group address, 16 bytes, IPv4-mapped for IPv4.
        group: [u8; 16],
        /// What is wrong with it.
        reason: Reason,
    },
}

/// Classifies a frame.
#[inline(always)]
pub fn classify<F: Frame + ?Sized>(frame: &F) -> Class {
    let Some(ethertype) = frame.load::<2>(12) else {
        return Class::Pass(Reason::NotIp);
    };
    match u16::from_be_bytes(ethertype) {
        ETHERTYPE_IPV4 => classify_v4(frame),
        ETHERTYPE_IPV6 => classify_v6(frame),
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Class::Pass(Reason::Vlan),
        _ => Class::Pass(Reason::NotIp),
    }
}

#[inline(always)]
fn classify_v4<F: Frame + ?Sized>(frame: &F) -> Class {
    let Some(ip) = frame.load::<IPV4_LEN>(ETHERNET_LEN) else {
        return Class::Pass(Reason::NotIp);
    };
    let group = map_v4([ip[16], ip[17], ip[18], ip[19]]);
    if ip[16] & 0xf0 != 0xe0 {
        return Class::Pass(Reason::NotMulticast);
    }
    if is_link_local(&group) {
        return Class::Pass(Reason::LinkLocal);
    }
    if ip[9] != PROTOCOL_UDP {
        return Class::Pass(Reason::NotUdp);
    }
    let defective = |reason| Class::Defective { group, reason };
    match ip[0] {
        0x45 => {}
        0x46..=0x4f => return defective(Reason::IpOptions),
        _ => return defective(Reason::BadIpHeader),
    }
    if ipv4_checksum(&ip) != 0 {
        return defective(Reason::BadIpHeader);
    }
    if u16::from_be_bytes([ip[6], ip[7]]) & IPV4_FRAGMENT_MASK != 0 {
        return defective(Reason::Fragment);
    }
    let ip_payload = match (u16::from_be_bytes([ip[2], ip[3]]) as usize).checked_sub(IPV4_LEN) {
        Some(length) => length,
        None => return defective(Reason::BadLength),
    };
    let source = map_v4([ip[12], ip[13], ip[14], ip[15]]);
    udp(frame, Family::V4, source, group, ip_payload, ip[8], ip[1])
}

#[inline(always)]
fn classify_v6<F: Frame + ?Sized>(frame: &F) -> Class {
    let Some(ip) = frame.load::<IPV6_LEN>(ETHERNET_LEN) else {
        return Class::Pass(Reason::NotIp);
    };
    let mut source = [0; 16];
    source.copy_from_slice(&ip[8..24]);
    let mut group = [0; 16];
    group.copy_from_slice(&ip[24..40]);
    if group[0] != 0xff {
        return Class::Pass(Reason::NotMulticast);
    }
    if is_link_local(&group) {
        return Class::Pass(Reason::LinkLocal);
    }
    let defective = |reason| Class::Defective { group, reason };
    let next_header = ip[6];
    if next_header != PROTOCOL_UDP {
        if next_header == NEXT_HEADER_FRAGMENT {
            return defective(Reason::Fragment);
        }
        let mut extension = false;
        for header in EXTENSION_HEADERS {
            extension |= header == next_header;
        }
        return if extension { defective(Reason::IpOptions) } else { Class::Pass(Reason::NotUdp) };
    }
    if ip[0] >> 4 != 6 {
        return defective(Reason::BadIpHeader);
    }
    let traffic_class = (ip[0] << 4) | (ip[1] >> 4);
    let ip_payload = u16::from_be_bytes([ip[4], ip[5]]) as usize;
    udp(frame, Family::V6, source, group, ip_payload, ip[7], traffic_class)
}

#[inline(always)]
fn udp<F: Frame + ?Sized>(
    frame: &F,
    family: Family,
    source: [u8; 16],
    group: [u8; 16],
    ip_payload: usize,
    ttl: u8,
    tos: u8,
) -> Class {
    let defective = |reason| Class::Defective { group, reason };
    let offset = ETHERNET_LEN + family.header_len();
    if ip_payload < UDP_LEN {
        return defective(Reason::BadLength);
    }
    if offset + ip_payload > frame.length() {
        return defective(Reason::Truncated);
    }
    let Some(udp) = frame.load::<UDP_LEN>(offset) else {
        return defective(Reason::Truncated);
    };
    let udp_len = u16::from_be_bytes([udp[4], udp[5]]) as usize;
    if udp_len != ip_payload {
        return defective(Reason::BadLength);
    }
    Class::Datagram(Datagram {
        family,
        source,
        group,
        source_port: u16::from_be_bytes([udp[0], udp[1]]),
        destination_port: u16::from_be_bytes([udp[2], udp[3]]),
        checksum: u16::from_be_bytes([udp[6], udp[7]]),
        ttl,
        tos,
        payload_len: ip_payload - UDP_LEN,
    })
}

/// The ones' complement checksum of an IPv4 header (RFC 1071): to be written when its field is zero; zero when it is right.
#[inline(always)]
pub fn ipv4_checksum(header: &[u8; IPV4_LEN]) -> u16 {
    let mut sum = 0u32;
    let mut i = 0;
    while i < IPV4_LEN {
        sum += u16::from_be_bytes([header[i], header[i + 1]]) as u32;
        i += 2;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// 10.0.0.1:5000 → 239.1.1.1:5001, TTL 16, TOS 0xb8, four bytes of payload.
    #[rustfmt::skip]
    const V4: [u8; 46] = [
        0x01, 0x00, 0x5e, 0x01, 0x01, 0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x08, 0x00,
        0x45, 0xb8, 0x00, 0x20, 0x00, 0x01, 0x40, 0x00, 0x10, 0x11, 0x70, 0x11, 10, 0, 0, 1, 239, 1, 1, 1,
        0x13, 0x88, 0x13, 0x89, 0x00, 0x0c, 0xab, 0xcd, 1, 2, 3, 4,
    ];

    /// fd00::1:5000 → ff3e::1:1:5001, hop limit 16, traffic class 0xb8, flow label 0x12345, four bytes of payload.
    #[rustfmt::skip]
    const V6: [u8; 66] = [
        0x33, 0x33, 0x00, 0x01, 0x00, 0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x86, 0xdd,
        0x6b, 0x81, 0x23, 0x45, 0x00, 0x0c, 0x11, 0x10,
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0x3e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1,
        0x13, 0x88, 0x13, 0x89, 0x00, 0x0c, 0xab, 0xcd, 1, 2, 3, 4,
    ];

    fn datagram(frame: &[u8]) -> Datagram {
        match classify(frame) {
            Class::Datagram(datagram) => datagram,
            other => panic!("expected a datagram, got {other:?}"),
        }
    }

    fn with(frame: &[u8], at: usize, value: u8) -> Vec<u8> {
        let mut frame = frame.to_vec();
        frame[at] = value;
        if frame[12] == 0x08 && (14..34).contains(&at) {
            frame[24..26].fill(0);
            let checksum = ipv4_checksum(frame[14..34].try_into().unwrap());
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        frame
    }

    fn defect(frame: &[u8]) -> Reason {
        match classify(frame) {
            Class::Defective { reason, .. } => reason,
            other => panic!("expected a defect, got {other:?}"),
        }
    }

    #[test]
    fn fields_of_both_families() {
        for (frame, family) in [(&V4[..], Family::V4), (&V6[..], Family::V6)] {
            let datagram = datagram(frame);
            assert_eq!(datagram.family, family);
            assert_eq!((datagram.source_port, datagram.destination_port, datagram.checksum), (5000, 5001, 0xabcd));
            assert_eq!((datagram.ttl, datagram.tos, datagram.payload_len), (16, 0xb8, 4));
            assert_eq!(frame[family.payload_offset()..], [1, 2, 3, 4]);
        }
        assert_eq!(datagram(&V4).source, map_v4([10, 0, 0, 1]));
        assert_eq!(datagram(&V4).group, map_v4([239, 1, 1, 1]));
        assert_eq!(datagram(&V6).group[..2], [0xff, 0x3e]);
    }

    #[test]
    fn ethernet_padding_is_not_payload() {
        let mut padded = V4.to_vec();
        padded.resize(60, 0);
        assert_eq!(datagram(&padded).payload_len, 4);
    }

    #[test]
    fn every_defect_has_its_reason() {
        assert_eq!(defect(&V4[..45]), Reason::Truncated);
        assert_eq!(defect(&V6[..65]), Reason::Truncated);
        assert_eq!(defect(&with(&V4, 14, 0x46)), Reason::IpOptions);
        assert_eq!(defect(&with(&V4, 14, 0x44)), Reason::BadIpHeader);
        assert_eq!(defect(&with(&V6, 14, 0x40)), Reason::BadIpHeader);
        assert_eq!(defect(&with(&V4, 17, 27)), Reason::BadLength, "shorter than its headers");
        assert_eq!(defect(&with(&V4, 20, 0x20)), Reason::Fragment);
        assert_eq!(defect(&with(&V6, 20, 44)), Reason::Fragment);
        assert_eq!(defect(&with(&V6, 20, 60)), Reason::IpOptions);
        assert_eq!(defect(&with(&V4, 39, 13)), Reason::BadLength, "UDP longer than IP");
        let mut checksum = V4;
        checksum[24] ^= 0x80;
        assert_eq!(defect(&checksum), Reason::BadIpHeader);
    }

    #[test]
    fn what_is_not_ours_passes() {
        let passed = |frame: &[u8]| match classify(frame) {
            Class::Pass(reason) => reason,
            other => panic!("expected a pass, got {other:?}"),
        };
        assert_eq!(passed(&V4[..13]), Reason::NotIp);
        assert_eq!(passed(&V4[..33]), Reason::NotIp, "a runt");
        assert_eq!(passed(&with(&V4, 13, 0x06)), Reason::NotIp);
        assert_eq!(passed(&with(&with(&V4, 12, 0x81), 13, 0)), Reason::Vlan);
        assert_eq!(passed(&with(&V4, 30, 10)), Reason::NotMulticast);
        assert_eq!(passed(&with(&V4, 23, 2)), Reason::NotUdp);
        assert_eq!(passed(&with(&V6, 20, 58)), Reason::NotUdp);
        assert_eq!(passed(&with(&V6, 39, 0x02)), Reason::LinkLocal);
        assert_eq!(passed(&with(&with(&with(&V4, 30, 224), 31, 0), 32, 0)), Reason::LinkLocal);
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_class(mut bytes in prop::collection::vec(any::<u8>(), 0..120), v6 in any::<bool>()) {
            let _ = classify(&bytes[..]);
            // Most random bytes are no IP packet: give them a chance.
            let head = if v6 { &V6[..] } else { &V4[..] };
            for (byte, good) in bytes.iter_mut().zip(head).take(34) {
                *byte = if *byte % 8 == 0 { *byte } else { *good };
            }
            if let Class::Datagram(datagram) = classify(&bytes[..]) {
                prop_assert!(datagram.family.payload_offset() + datagram.payload_len <= bytes.len());
            }
        }
    }
}
