//! Ethernet frames that carry UDP multicast, built and read byte by byte.
//!
//! Written apart from the product's own codec on purpose: what this module and the product understand differently shows
//! up as a failing test. Frames are plain bytes, so a test can bend any of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Length of the Ethernet header.
const ETHERNET_LEN: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const PROTOCOL_UDP: u8 = 17;

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address a multicast group's frames go to: RFC 1112 §6.4, RFC 2464 §7.
    pub fn of_group(group: IpAddr) -> Self {
        match group {
            IpAddr::V4(group) => {
                let [_, b, c, d] = group.octets();
                Self([0x01, 0x00, 0x5e, b & 0x7f, c, d])
            }
            IpAddr::V6(group) => {
                let octets = group.octets();
                Self([0x33, 0x33, octets[12], octets[13], octets[14], octets[15]])
            }
        }
    }
}

impl Mac {
    /// The IPv6 address that an interface makes itself of it (RFC 4291 appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, g] = self.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, g])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no hardware address");
        let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        bytes.ok().and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(bad)
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A UDP datagram in an Ethernet frame. Source and destination are of one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Hardware address of the sender.
    pub mac: Mac,
    /// IP source.
    pub source: IpAddr,
    /// IP destination.
    pub group: IpAddr,
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub port: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class: DSCP and ECN.
    pub tos: u8,
    /// Don't Fragment; of IPv4 only.
    pub dont_fragment: bool,
    /// UDP checksum as it is in the frame; built frames get the right one.
    pub checksum: u16,
    /// UDP payload.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// A datagram to a group, of common header values.
    pub fn new(mac: Mac, source: IpAddr, group: IpAddr, port: u16, payload: impl Into<Vec<u8>>) -> Self {
        let payload = payload.into();
        Self {
            mac,
            source,
            group,
            source_port: 40000,
            port,
            ttl: 16,
            tos: 0,
            dont_fragment: false,
            checksum: 0,
            payload,
        }
    }

    /// Length of the headers in front of the payload.
    pub fn headers_len(&self) -> usize {
        ETHERNET_LEN + if self.group.is_ipv4() { 20 } else { 40 } + 8
    }

    /// The frame.
    pub fn to_frame(&self) -> Vec<u8> {
        let udp_len = u16::try_from(8 + self.payload.len()).expect("a datagram fits 64 KiB");
        let mut frame = Vec::with_capacity(self.headers_len() + self.payload.len());
        frame.extend(Mac::of_group(self.group).0);
        frame.extend(self.mac.0);
        match (self.source, self.group) {
            (IpAddr::V4(source), IpAddr::V4(group)) => {
                frame.extend(ETHERTYPE_IPV4.to_be_bytes());
                frame.extend([0x45, self.tos]);
                frame.extend((20 + udp_len).to_be_bytes());
                frame.extend([0, 0, if self.dont_fragment { 0x40 } else { 0 }, 0]);
                frame.extend([self.ttl, PROTOCOL_UDP, 0, 0]);
                frame.extend(source.octets());
                frame.extend(group.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(group)) => {
                frame.extend(ETHERTYPE_IPV6.to_be_bytes());
                frame.extend([0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
                frame.extend(udp_len.to_be_bytes());
                frame.extend([PROTOCOL_UDP, self.ttl]);
                frame.extend(source.octets());
                frame.extend(group.octets());
            }
            _ => panic!("source {} and group {} are of different families", self.source, self.group),
        }
        frame.extend(self.source_port.to_be_bytes());
        frame.extend(self.port.to_be_bytes());
        frame.extend(udp_len.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(&self.payload);
        fix_checksums(&mut frame);
        frame
    }

    /// Reads a frame; nothing, when it is no whole, unfragmented, untagged UDP datagram.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET_LEN..)?;
        let (source, group, ttl, tos, dont_fragment, udp): (IpAddr, IpAddr, _, _, _, _) =
            match u16::from_be_bytes([frame[12], frame[13]]) {
                ETHERTYPE_IPV4 => {
                    let header: &[u8; 20] = ip.first_chunk()?;
                    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
                    let fragment = u16::from_be_bytes([header[6], header[7]]);
                    if header[0] != 0x45 || header[9] != PROTOCOL_UDP || fragment & 0x3fff != 0 {
                        return None;
                    }
                    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
                    let udp = ip.get(20..total)?;
                    (address(12).into(), address(16).into(), header[8], header[1], fragment & 0x4000 != 0, udp)
                }
                ETHERTYPE_IPV6 => {
                    let header: &[u8; 40] = ip.first_chunk()?;
                    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
                    if header[0] >> 4 != 6 || header[6] != PROTOCOL_UDP {
                        return None;
                    }
                    let address = |at: usize| {
                        Ipv6Addr::from(*header[at..at + 16].first_chunk::<16>().expect("16 bytes of the header"))
                    };
                    let tos = header[0] << 4 | header[1] >> 4;
                    (address(8).into(), address(24).into(), header[7], tos, false, ip.get(40..40 + len)?)
                }
                _ => return None,
            };
        let header: &[u8; 8] = udp.first_chunk()?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        Some(Self {
            mac: Mac(*frame[6..12].first_chunk().expect("6 bytes of the Ethernet header")),
            source,
            group,
            source_port: u16::from_be_bytes([header[0], header[1]]),
            port: u16::from_be_bytes([header[2], header[3]]),
            ttl,
            tos,
            dont_fragment,
            checksum: u16::from_be_bytes([header[6], header[7]]),
            payload: udp.get(8..len)?.to_vec(),
        })
    }
}

/// Sets the IPv4 header checksum and the UDP checksum of a UDP frame that [`Datagram::to_frame`] made and a test bent.
pub fn fix_checksums(frame: &mut [u8]) {
    let (pseudo, udp_at): (Vec<u8>, usize) = match u16::from_be_bytes([frame[12], frame[13]]) {
        ETHERTYPE_IPV4 => {
            let header = &mut frame[ETHERNET_LEN..ETHERNET_LEN + 20];
            header[10..12].fill(0);
            let sum = internet_checksum(&[header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            (header[12..20].to_vec(), ETHERNET_LEN + 20)
        }
        ETHERTYPE_IPV6 => (frame[ETHERNET_LEN + 8..ETHERNET_LEN + 40].to_vec(), ETHERNET_LEN + 40),
        other => panic!("no IP frame: EtherType {other:#06x}"),
    };
    let udp = &mut frame[udp_at..];
    let len = u16::try_from(udp.len()).expect("a datagram fits 64 KiB");
    udp[6..8].fill(0);
    let sum = internet_checksum(&[&pseudo, &[0, PROTOCOL_UDP], &len.to_be_bytes(), udp]);
    // RFC 768: a computed zero is sent as all ones, zero means none.
    udp[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
}

/// RFC 1071. Every part but the last is of even length.
fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The frame with an IEEE 802.1Q tag.
pub fn vlan_tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend(ETHERTYPE_VLAN.to_be_bytes());
    tagged.extend(vlan.to_be_bytes());
    tagged.extend(&frame[12..]);
    tagged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(group: &str, source: &str) -> Datagram {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        Datagram { tos: 0xb9, ..Datagram::new(mac, source.parse().unwrap(), group.parse().unwrap(), 5000, *b"odd") }
    }

    #[test]
    fn what_is_built_reads_back_alike() {
        for datagram in [datagram("239.1.1.1", "10.0.0.1"), datagram("ff3e::1:1", "fd00::1")] {
            let read = Datagram::parse(&datagram.to_frame()).unwrap();
            assert_ne!(read.checksum, 0);
            assert_eq!(Datagram { checksum: 0, ..read }, datagram);
        }
    }

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        let frame = datagram("239.1.1.1", "192.168.0.1").to_frame();
        assert_eq!(internet_checksum(&[&frame[ETHERNET_LEN..ETHERNET_LEN + 20]]), 0);
        let udp = &frame[ETHERNET_LEN + 20..];
        let pseudo = [192, 168, 0, 1, 239, 1, 1, 1, 0, PROTOCOL_UDP, 0, 11];
        assert_eq!(internet_checksum(&[&pseudo, udp]), 0);
    }

    #[test]
    fn group_addresses_map_to_hardware_addresses() {
        assert_eq!(Mac::of_group("239.129.2.3".parse().unwrap()).to_string(), "01:00:5e:01:02:03");
        assert_eq!(Mac::of_group("ff3e::1:2".parse().unwrap()).to_string(), "33:33:00:01:00:02");
    }
}
