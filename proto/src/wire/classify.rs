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
