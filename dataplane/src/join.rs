//! Group memberships: IGMPv3 and MLDv2 spoken by the kernel for ordinary sockets that never receive anything, so that
//! snooping switches deliver the groups to this host and its interfaces accept them.
//!
//! The data plane holds them rather than control: they must last as long as forwarding does, and forwarding outlives
//! control.
#![allow(unsafe_code)]

use rustix::fd::AsRawFd;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// One membership: a group on an interface, from any source or from one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Membership {
    /// Kernel interface index.
    pub ifindex: u32,
    /// Group address.
    pub group: IpAddr,
    /// The one source, for source-specific multicast.
    pub source: Option<IpAddr>,
}

/// The kernel's default limit of memberships of one IPv4 socket (net.ipv4.igmp_max_memberships).
const PER_SOCKET: usize = 20;

const MCAST_JOIN_GROUP: libc::c_int = 42;
const MCAST_LEAVE_GROUP: libc::c_int = 45;
const MCAST_JOIN_SOURCE_GROUP: libc::c_int = 46;
const MCAST_LEAVE_SOURCE_GROUP: libc::c_int = 47;

/// `struct group_req` and, with `source`, `struct group_source_req` of linux/in.h.
#[repr(C)]
struct GroupRequest {
    interface: u32,
    group: SockAddrStorage,
    source: SockAddrStorage,
}

/// The memberships in force and the sockets that hold them.
#[derive(Default)]
pub struct Memberships {
    sockets: Vec<(Socket, usize)>,
    held: BTreeMap<Membership, usize>,
    /// By interface index: what makes it accept every group, for flows of prefixes, which cannot be joined.
    all_multicast: BTreeMap<u32, Socket>,
}

impl Memberships {
    /// Joins and leaves so that exactly `wanted` is held. Gives back what could not be joined; it is tried again at the
    /// next call.
    pub fn set(&mut self, wanted: &BTreeSet<Membership>) -> Vec<(Membership, io::Error)> {
        let gone: Vec<Membership> = self.held.keys().filter(|held| !wanted.contains(held)).copied().collect();
        for membership in gone {
            if let Some(socket) = self.held.remove(&membership) {
                let (socket, count) = &mut self.sockets[socket];
                *count -= 1;
                // The interface may be gone, and the membership with it.
                let _ = request(socket, &membership, false);
            }
        }
        let mut failed = Vec::new();
        for membership in wanted {
            if !self.held.contains_key(membership)
                && let Err(error) = self.join(*membership)
            {
                failed.push((*membership, error));
            }
        }
        failed
    }

    /// Makes exactly these interfaces accept every group. A switch that snoops still has to be told to deliver them all.
    pub fn set_all_multicast(&mut self, wanted: &BTreeSet<u32>) -> Vec<(u32, io::Error)> {
        self.all_multicast.retain(|ifindex, _| wanted.contains(ifindex));
        let mut failed = Vec::new();
        for &ifindex in wanted {
            if let Entry::Vacant(vacant) = self.all_multicast.entry(ifindex) {
                match accept_all(ifindex) {
                    Ok(socket) => drop(vacant.insert(socket)),
                    Err(error) => failed.push((ifindex, error)),
                }
            }
        }
        failed
    }

    /// Forgets the memberships of an interface that is gone; they vanished with it.
    pub fn forget(&mut self, ifindex: u32) {
        self.all_multicast.remove(&ifindex);
        let gone: Vec<Membership> = self.held.keys().filter(|held| held.ifindex == ifindex).copied().collect();
        for membership in gone {
            if let Some(socket) = self.held.remove(&membership) {
                self.sockets[socket].1 -= 1;
                let _ = request(&self.sockets[socket].0, &membership, false);
            }
        }
    }

    fn join(&mut self, membership: Membership) -> io::Result<()> {
        let family = Domain::for_address(SocketAddr::new(membership.group, 0));
        let fits = |(_, count): &(Socket, usize)| *count < PER_SOCKET;
        // The newest socket of the family is the one with room.
        let newest = self.sockets.iter().rposition(|(socket, _)| socket.domain().is_ok_and(|domain| domain == family));
        let index = match newest.filter(|&index| fits(&self.sockets[index])) {
            Some(index) => index,
            None => {
                self.sockets.push((Socket::new(family, Type::DGRAM, Some(Protocol::UDP))?, 0));
                self.sockets.len() - 1
            }
        };
        request(&self.sockets[index].0, &membership, true)?;
        self.sockets[index].1 += 1;
        self.held.insert(membership, index);
        Ok(())
    }
}

/// A packet socket (packet(7)) that receives nothing, but puts the interface into all-multicast mode while it is open.
fn accept_all(ifindex: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    let request = libc::packet_mreq {
        mr_ifindex: i32::try_from(ifindex).map_err(io::Error::other)?,
        mr_type: libc::PACKET_MR_ALLMULTI as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    // SAFETY: PACKET_ADD_MEMBERSHIP reads a struct packet_mreq, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            std::ptr::from_ref(&request).cast(),
            size_of::<libc::packet_mreq>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

fn request(socket: &Socket, membership: &Membership, join: bool) -> io::Result<()> {
    let address = |ip: IpAddr| SockAddr::from(SocketAddr::new(ip, 0)).as_storage();
    let request = GroupRequest {
        interface: membership.ifindex,
        group: address(membership.group),
        source: address(membership.source.unwrap_or(membership.group)),
    };
    let option = match (membership.source.is_some(), join) {
        (false, true) => MCAST_JOIN_GROUP,
        (false, false) => MCAST_LEAVE_GROUP,
        (true, true) => MCAST_JOIN_SOURCE_GROUP,
        (true, false) => MCAST_LEAVE_SOURCE_GROUP,
    };
    let level = if membership.group.is_ipv4() { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 };
    // SAFETY: the options read a struct group_req or group_source_req, which `GroupRequest` starts with or is laid out as
    // (linux/in.h: u32 interface, then sockaddr_storage aligned to 8); it outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&request).cast(),
            size_of::<GroupRequest>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const _: () = {
    assert!(size_of::<GroupRequest>() == 264);
    assert!(std::mem::offset_of!(GroupRequest, group) == 8);
    assert!(std::mem::offset_of!(GroupRequest, source) == 136);
};

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(group: &str, source: Option<&str>) -> Membership {
        Membership { ifindex: 1, group: group.parse().unwrap(), source: source.map(|source| source.parse().unwrap()) }
    }

    /// What /proc says the kernel joined, as it prints it: IPv4 groups in reversed hexadecimal, IPv6 plain.
    fn joined(file: &str, group: &str) -> bool {
        std::fs::read_to_string(file).unwrap().to_lowercase().contains(group)
    }

    #[test]
    fn the_kernel_holds_exactly_what_is_wanted() {
        let mut memberships = Memberships::default();
        let wanted: BTreeSet<_> = [
            loopback("239.77.1.1", None),
            loopback("232.77.1.2", Some("127.0.0.9")),
            loopback("ff3e::7777:1", Some("::1")),
        ]
        .into();
        assert!(memberships.set(&wanted).is_empty());
        assert!(joined("/proc/net/igmp", "01014def"));
        assert!(joined("/proc/net/igmp", "02014de8"));
        assert!(joined("/proc/net/igmp6", "ff3e0000000000000000000077770001"));
        assert!(memberships.set(&BTreeSet::new()).is_empty());
        assert!(!joined("/proc/net/igmp", "01014def"));
        assert!(!joined("/proc/net/igmp6", "ff3e0000000000000000000077770001"));
    }

    #[test]
    fn more_groups_than_a_socket_holds() {
        let mut memberships = Memberships::default();
        let wanted: BTreeSet<_> = (0..50).map(|i| loopback(&format!("239.78.1.{i}"), None)).collect();
        assert!(memberships.set(&wanted).is_empty());
        assert_eq!(memberships.sockets.len(), 3);
        assert!(joined("/proc/net/igmp", "31014eef"));
    }

    #[test]
    fn what_cannot_be_joined_is_named() {
        let mut memberships = Memberships::default();
        let wrong = Membership { ifindex: 99_999, ..loopback("239.77.1.1", None) };
        let failed = memberships.set(&[wrong].into());
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].0, wrong);
    }
}
