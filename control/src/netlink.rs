//! The kernel's view of its interfaces, kept up to date from netlink (rtnetlink(7)).
//!
//! The whole table is read at the start and again whenever the kernel says that notifications were lost, so it is never
//! stale for long. It holds every interface of the network namespace; what becomes of them is decided elsewhere.

use gemcast_proto::wire::babel::Prefix;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::{Socket, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};

/// Multicast groups of rtnetlink(7): links, IPv4 addresses, IPv6 addresses.
const NOTIFICATIONS: u32 = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
const RTMGRP_LINK: u32 = 1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
/// The kernel never sends a larger datagram (NLMSG_GOODSIZE is at most 8 KiB, dumps use up to 32 KiB).
const DATAGRAM_LEN: usize = 1 << 16;
/// A dump interrupted by changes is repeated this often before what there is must do.
const DUMP_ATTEMPTS: usize = 8;

/// One interface as the kernel describes it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Kernel index.
    pub ifindex: u32,
    /// Kernel name.
    pub name: String,
    /// Administratively up (`ip link set … up`).
    pub up: bool,
    /// Has carrier.
    pub running: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Ethernet address, of an interface that has one.
    pub mac: Option<[u8; 6]>,
    /// IPv4 addresses.
    pub ipv4: BTreeSet<Ipv4Addr>,
    /// IPv6 link-local addresses that passed duplicate address detection.
    pub link_local: BTreeSet<Ipv6Addr>,
    /// IPv6 link-local addresses that are still being checked for duplicates.
    pub tentative: BTreeSet<Ipv6Addr>,
    /// Routable addresses and the prefix of the link that each is from.
    connected: BTreeSet<(IpAddr, Prefix)>,
}

impl Link {
    /// Routable addresses, each with the prefix of the link that it is of.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, Prefix)> {
        self.connected.iter().copied()
    }

    /// Prefixes that are on the link.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.connected.iter().map(|(_, prefix)| *prefix)
    }
}

/// The table and the socket it is kept up to date from.
pub struct Netlink {
    socket: Socket,
    links: BTreeMap<u32, Link>,
    buffer: Vec<u8>,
}

/// What a datagram said besides its changes.
#[derive(PartialEq, Eq)]
enum Seen {
    /// The end of a dump.
    Done,
    /// A dump was interrupted by a change and is incomplete.
    Interrupted,
    /// Nothing special.
    More,
}

impl Netlink {
    /// Opens a socket, subscribes, and reads the whole table.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, NOTIFICATIONS))?;
        let mut netlink = Self { socket, links: BTreeMap::new(), buffer: Vec::with_capacity(DATAGRAM_LEN) };
        netlink.dump()?;
        netlink.socket.set_non_blocking(true)?;
        Ok(netlink)
    }

    /// Takes in every waiting notification; `true` when the table changed.
    pub fn receive(&mut self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            match self.receive_datagram(&mut changed) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The socket's buffer ran over: notifications are lost, the table is to be read anew.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    let dumped = self.socket.set_non_blocking(false).and_then(|()| self.dump());
                    // Whatever became of it, the event loop must not block here next time.
                    self.socket.set_non_blocking(true)?;
                    dumped?;
                    changed = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The interface of a name.
    pub fn find(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// Every interface, by index.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// Reads links, then addresses. The kernel answers dumps at once, so waiting for it never blocks for long.
    fn dump(&mut self) -> io::Result<()> {
        for _ in 0..DUMP_ATTEMPTS {
            self.links.clear();
            let links = self.dump_one(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
            let addresses = self.dump_one(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
            if links && addresses {
                return Ok(());
            }
        }
        tracing::warn!("interfaces change faster than they can be listed; the list may lag behind");
        Ok(())
    }

    /// One dump; `false` when it was interrupted by changes.
    fn dump_one(&mut self, request: RouteNetlinkMessage) -> io::Result<bool> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut whole = true;
        loop {
            match self.receive_datagram(&mut false) {
                Ok(Seen::Done) => return Ok(whole),
                Ok(Seen::Interrupted) => whole = false,
                Ok(Seen::More) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Its end may be among what was lost: asked for again.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn receive_datagram(&mut self, changed: &mut bool) -> io::Result<Seen> {
        self.buffer.clear();
        let mut buffer = std::mem::take(&mut self.buffer);
        let received = self.socket.recv_from(&mut buffer, 0);
        let seen = received.and_then(|(_, from)| {
            // Only the kernel (port 0) speaks for the kernel.
            if from.port_number() == 0 { self.take_in(&buffer, changed) } else { Ok(Seen::More) }
        });
        self.buffer = buffer;
        seen
    }

    /// Walks the messages of one datagram.
    fn take_in(&mut self, mut rest: &[u8], changed: &mut bool) -> io::Result<Seen> {
        let mut seen = Seen::More;
        while let Ok(buffer) = NetlinkBuffer::new_checked(rest) {
            let length = buffer.length() as usize;
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]);
            match message {
                Ok(message) => {
                    const DUMP_INTERRUPTED: u16 = 0x10;
                    if message.header.flags & DUMP_INTERRUPTED != 0 {
                        seen = Seen::Interrupted;
                    }
                    match message.payload {
                        NetlinkPayload::Done(_) if seen == Seen::More => seen = Seen::Done,
                        NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                        NetlinkPayload::InnerMessage(message) => *changed |= self.apply(&message),
                        _ => {}
                    }
                }
                // A newer kernel may describe exotic links in ways this version cannot read; ours are ordinary ones.
                Err(error) => tracing::debug!(%error, "netlink message not understood"),
            }
            // Messages are aligned to four bytes; the last one may end without padding.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(seen)
    }

    /// Applies one message; `true` when the table changed.
    fn apply(&mut self, message: &RouteNetlinkMessage) -> bool {
        match message {
            RouteNetlinkMessage::NewLink(message) => {
                let before = self.links.get(&message.header.index).cloned();
                let mut link = before.clone().unwrap_or_default();
                link.ifindex = message.header.index;
                link.up = message.header.flags.contains(LinkFlags::Up);
                link.running = message.header.flags.contains(LinkFlags::Running);
                for attribute in &message.attributes {
                    match attribute {
                        LinkAttribute::IfName(name) => link.name.clone_from(name),
                        LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                        LinkAttribute::Address(address) => link.mac = address.as_slice().try_into().ok(),
                        _ => {}
                    }
                }
                let changed = before.as_ref() != Some(&link);
                self.links.insert(link.ifindex, link);
                changed
            }
            RouteNetlinkMessage::DelLink(message) => self.links.remove(&message.header.index).is_some(),
            RouteNetlinkMessage::NewAddress(message) => self.apply_address(message, true),
            RouteNetlinkMessage::DelAddress(message) => self.apply_address(message, false),
            _ => false,
        }
    }

    fn apply_address(&mut self, message: &AddressMessage, present: bool) -> bool {
        let Some(link) = self.links.get_mut(&message.header.index) else { return false };
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        let (mut address, mut local) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        // On point-to-point links IFA_ADDRESS is the other end, which the prefix is of, and IFA_LOCAL ours.
        let prefix = address.or(local).and_then(|of| Prefix::new(of, message.header.prefix_len).ok());
        let routable = |ip: &IpAddr| !ip.is_loopback() && !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let connected = local.or(address).filter(routable).zip(prefix);
        let reached = connected.is_some_and(|connected| set(&mut link.connected, connected, present));
        match local.or(address) {
            Some(IpAddr::V4(ip)) => set(&mut link.ipv4, ip, present) || reached,
            Some(IpAddr::V6(ip)) if ip.is_unicast_link_local() => {
                let failed = flags.contains(AddressFlags::Dadfailed);
                let optimistic = flags.contains(AddressFlags::Optimistic);
                let tentative = flags.contains(AddressFlags::Tentative) && !optimistic && !failed;
                let usable = set(&mut link.link_local, ip, present && !tentative && !failed);
                set(&mut link.tentative, ip, present && tentative) || usable
            }
            _ => reached,
        }
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Puts an element into a set or takes it out; `true` when that changed the set.
fn set<T: Ord>(set: &mut BTreeSet<T>, element: T, present: bool) -> bool {
    if present { set.insert(element) } else { set.remove(&element) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_lists_the_loopback_interface() {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.find("lo").expect("every namespace has a loopback interface");
        assert!(lo.ifindex > 0 && lo.mtu > 0);
        assert!(netlink.links().any(|link| link.name == "lo"));
        assert!(netlink.find("no-such-link").is_none());
        netlink.receive().unwrap();
    }

    #[test]
    fn addresses_come_and_go_and_tentative_ones_do_not_count() {
        let mut netlink = Netlink::open().unwrap();
        let ifindex = netlink.find("lo").unwrap().ifindex;
        let address = |flags: AddressFlags| {
            let mut message = AddressMessage::default();
            message.header.index = ifindex;
            message.attributes =
                vec![AddressAttribute::Address("fe80::1".parse().unwrap()), AddressAttribute::Flags(flags)];
            message
        };
        let steady = address(AddressFlags::Permanent);
        assert!(netlink.apply_address(&address(AddressFlags::Tentative), true));
        assert!(netlink.find("lo").unwrap().link_local.is_empty(), "not usable yet");
        assert!(netlink.apply_address(&steady, true));
        assert!(netlink.find("lo").unwrap().tentative.is_empty());
        assert!(!netlink.apply_address(&steady, true), "nothing new");
        assert_eq!(netlink.find("lo").unwrap().link_local.len(), 1);
        assert!(netlink.apply_address(&address(AddressFlags::Dadfailed), true), "a duplicate is withdrawn");
        assert!(netlink.find("lo").unwrap().link_local.is_empty());
    }

    #[test]
    fn garbage_from_the_socket_changes_nothing() {
        let mut netlink = Netlink::open().unwrap();
        let before: Vec<_> = netlink.links().cloned().collect();
        for bytes in
            [&[0xff_u8; 40][..], &[0; 16], &[20, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], &[]]
        {
            let _ = netlink.take_in(bytes, &mut false);
        }
        assert_eq!(netlink.links().cloned().collect::<Vec<_>>(), before);
    }
}
