//! Multicast router advertisements (RFC 4286): a prefix of groups cannot be joined, so switches that snoop are told that
//! a router of multicast is behind this port, and deliver every group to it.
//!
//! Like memberships, they have to last as long as forwarding does. Solicitations are not answered: a switch that has just
//! started hears of us within the interval.
//!
//! ```text
//! IP with Router Alert | IGMP 0x30 or ICMPv6 151 | interval in s | checksum 2 | query interval 2 | robustness 2
//! ```

use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};

/// All-Snoopers.
const SNOOPERS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 106);
const SNOOPERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x6a);
const IGMP: u8 = 2;
const ICMP_V6: u8 = 58;
const IGMP_ADVERTISEMENT: u8 = 0x30;
const ICMP_ADVERTISEMENT: u8 = 151;
/// AdvertisementInterval, AdvertisementJitter, MaxInitialAdvertisementInterval, MaxInitialAdvertisements (RFC 4286 §3.1).
const INTERVAL_S: u8 = 20;
const JITTER_MS: u64 = 500;
const INITIAL_INTERVAL_MS: u64 = 2_000;
const INITIAL_ADVERTISEMENTS: u32 = 3;
/// Internetwork control (CS6), as for what the kernel sends for memberships.
const TRAFFIC_CLASS: u8 = 0xc0;
const V4_LEN: usize = 24 + 8;
const V6_LEN: usize = 40 + 8 + 8;

/// Sends the advertisements.
#[derive(Default)]
pub struct Advertiser {
    /// By kernel index of the interface.
    interfaces: BTreeMap<u32, Schedule>,
}

struct Schedule {
    /// Each family's socket.
    v4: Socket,
    v6: Socket,
    name: String,
    sent: u32,
    due_ms: u64,
    /// Whether a failure was logged.
    failed: bool,
}

impl Advertiser {
    /// Advertises on exactly these interfaces, by index and name. Gives back where it cannot.
    pub fn set(&mut self, wanted: &BTreeSet<(u32, String)>) -> Vec<(String, io::Error)> {
        self.interfaces.retain(|ifindex, schedule| wanted.contains(&(*ifindex, schedule.name.clone())));
        let mut failed = Vec::new();
        for (ifindex, name) in wanted {
            if !self.interfaces.contains_key(ifindex) {
                match Schedule::new(name) {
                    Ok(schedule) => drop(self.interfaces.insert(*ifindex, schedule)),
                    Err(error) => failed.push((name.clone(), error)),
                }
            }
        }
        failed
    }

    /// Sends what is due, at a time in milliseconds.
    pub fn tick(&mut self, now_ms: u64) {
        for (&ifindex, schedule) in &mut self.interfaces {
            if schedule.due_ms > now_ms {
                continue;
            }
            schedule.due_ms = now_ms + pause_ms(schedule.sent, ifindex);
            schedule.sent = schedule.sent.saturating_add(1);
            let sent = schedule.send(ifindex);
            // An interface may have addresses of one family only.
            if let [Err(error), Err(_)] = &sent
                && !std::mem::replace(&mut schedule.failed, true)
            {
                tracing::warn!(interface = schedule.name, %error, "cannot advertise a multicast router; it is tried again");
            }
        }
    }
}

impl Schedule {
    fn new(name: &str) -> io::Result<Self> {
        // Sockets of this protocol send whole packets and receive nothing (raw(7)).
        let raw = |domain| -> io::Result<Socket> {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            socket.set_nonblocking(true)?;
            socket.bind_device(Some(name.as_bytes()))?;
            Ok(socket)
        };
        let (v4, v6) = (raw(Domain::IPV4)?, raw(Domain::IPV6)?);
        v4.set_multicast_loop_v4(false)?;
        v6.set_multicast_loop_v6(false)?;
        Ok(Self { v4, v6, name: name.to_owned(), sent: 0, due_ms: 0, failed: false })
    }

    fn send(&self, ifindex: u32) -> [io::Result<()>; 2] {
        let v4 = || {
            let to = SocketAddrV4::new(SNOOPERS_V4, 0);
            self.v4.send_to(&advertisement_v4(), &to.into()).map(drop)
        };
        let v6 = || {
            let source = link_local(ifindex)?;
            let to = SocketAddrV6::new(SNOOPERS_V6, 0, 0, ifindex);
            self.v6.send_to(&advertisement_v6(source), &to.into()).map(drop)
        };
        [v4(), v6()]
    }
}

/// Time to the next advertisement (RFC 4286 §3.1): soon for the first ones, then about the interval, so that not every
/// interface speaks at once.
fn pause_ms(sent: u32, ifindex: u32) -> u64 {
    if sent + 1 < INITIAL_ADVERTISEMENTS {
        return INITIAL_INTERVAL_MS;
    }
    let spread = (u64::from(sent) * 331 + u64::from(ifindex) * 977) % (2 * JITTER_MS);
    u64::from(INTERVAL_S) * 1000 - JITTER_MS + spread
}

/// The address that the kernel sends from to a group of an interface's link.
fn link_local(ifindex: u32) -> io::Result<Ipv6Addr> {
    let socket = UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
    // Sends nothing: it fixes the addresses. The port is discard's.
    socket.connect(SocketAddrV6::new(SNOOPERS_V6, 9, 0, ifindex))?;
    match socket.local_addr()?.ip() {
        IpAddr::V6(address) if address.is_unicast_link_local() => Ok(address),
        _ => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

/// An advertisement in IPv4. The kernel writes the source address and the header's length and checksum (raw(7)).
fn advertisement_v4() -> [u8; V4_LEN] {
    let mut packet = [0; V4_LEN];
    (packet[0], packet[1], packet[8], packet[9]) = (0x46, TRAFFIC_CLASS, 1, IGMP);
    packet[16..20].copy_from_slice(&SNOOPERS_V4.octets());
    // Router Alert (RFC 2113).
    packet[20..24].copy_from_slice(&[0x94, 4, 0, 0]);
    packet[24..].copy_from_slice(&message(IGMP_ADVERTISEMENT, &[]));
    packet
}

/// An advertisement in IPv6, with a hop-by-hop header as MLD has it (RFC 2711).
fn advertisement_v6(source: Ipv6Addr) -> [u8; V6_LEN] {
    let mut packet = [0; V6_LEN];
    packet[..4].copy_from_slice(&(6 << 28 | u32::from(TRAFFIC_CLASS) << 20).to_be_bytes());
    // Payload length, next header hop-by-hop, hop limit.
    packet[4..8].copy_from_slice(&[0, 16, 0, 1]);
    packet[8..24].copy_from_slice(&source.octets());
    packet[24..40].copy_from_slice(&SNOOPERS_V6.octets());
    packet[40..48].copy_from_slice(&[ICMP_V6, 0, 5, 2, 0, 0, 1, 0]);
    let pseudo_header = [&packet[8..40], &[0, 0, 0, 8, 0, 0, 0, ICMP_V6]].concat();
    packet[48..].copy_from_slice(&message(ICMP_ADVERTISEMENT, &pseudo_header));
    packet
}

/// The message itself. We query no groups, so query interval and robustness are zero (RFC 4286 §3.2).
fn message(kind: u8, pseudo_header: &[u8]) -> [u8; 8] {
    let mut message = [kind, INTERVAL_S, 0, 0, 0, 0, 0, 0];
    let checksum = checksum(&[pseudo_header, &message].concat());
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// The ones' complement checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertisements_are_as_the_rfc_has_them() {
        let v4 = advertisement_v4();
        assert_eq!(v4[24..], [0x30, 20, 0xcf, 0xeb, 0, 0, 0, 0]);
        assert_eq!(checksum(&v4[24..]), 0, "right");
        let v6 = advertisement_v6("fe80::1".parse().unwrap());
        assert_eq!((v6[48], v6[49], &v6[52..]), (151, 20, &[0; 4][..]));
        let covered = [&v6[8..40], &[0, 0, 0, 8, 0, 0, 0, 58], &v6[48..]].concat();
        assert_eq!(checksum(&covered), 0, "right");
        assert_eq!(usize::from(v6[5]), V6_LEN - 40);
    }

    #[test]
    fn the_first_come_soon_and_the_rest_at_the_interval() {
        assert_eq!([0, 1].map(|sent| pause_ms(sent, 7)), [2_000; 2]);
        for sent in 2..500 {
            assert!((19_500..20_500).contains(&pause_ms(sent, sent % 9)));
        }
    }
}
