//! The UDP sockets of the Babel domain: every packet in and out of them, with the interface and addresses it went by.
//!
//! RFC 8966 §4: packets travel between link-local addresses, on the Babel port at both ends, with a hop limit of 1
//! (§5); the destination address is needed for the MAC's pseudo-header (RFC 8967 §4.1). Unicast peers may be spoken to
//! over IPv4 and from routable IPv6 addresses, too; they may be behind routers, so those packets have the full hop
//! limit. Who is heard is the engine's to decide.

use gemcast_engine::input::Packet;
use gemcast_engine::output::Transmit;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg,
    setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// The group all Babel speakers of a link hear (RFC 8966 §5).
pub const BABEL_GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 6);
/// RFC 8966 packets fit the MTU; the largest UDP payload there is fits here.
const PACKET_LEN_MAX: usize = 1 << 16;
/// Whole tables of several neighbours arrive at once when we start.
const RECEIVE_BUFFER_LEN: usize = 2 << 20;
/// Internetwork control (CS6), as routing protocols use.
const TRAFFIC_CLASS: u32 = 0xc0;
/// Hop limit on the link.
const LINK_HOPS: u32 = 1;
/// Hop limit towards peers that may be behind routers.
const ROUTED_HOPS: i32 = 255;

/// The sockets.
pub struct BabelSocket {
    v6: Socket,
    v4: Socket,
    port: u16,
    /// Interfaces that are spoken on.
    joined: BTreeSet<u32>,
    /// Whether the IPv4 socket is read first the next time; they take turns.
    v4_first: bool,
    buffer: Vec<u8>,
    control: Vec<u8>,
}

/// A datagram's place in the buffer and where it came from.
pub struct Received {
    ifindex: u32,
    source: Ipv6Addr,
    source_port: u16,
    destination: Ipv6Addr,
    length: usize,
}

impl BabelSocket {
    /// Binds the Babel port of every interface.
    pub fn bind(port: u16) -> io::Result<Self> {
        let v6 = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        v6.set_only_v6(true)?;
        v6.set_nonblocking(true)?;
        v6.set_multicast_hops_v6(LINK_HOPS)?;
        v6.set_unicast_hops_v6(LINK_HOPS)?;
        v6.set_multicast_loop_v6(false)?;
        v6.set_tclass_v6(TRAFFIC_CLASS)?;
        setsockopt(&v6, sockopt::Ipv6RecvPacketInfo, &true)?;
        enlarge_buffer(&v6)?;
        v6.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into())?;
        let port = v6.local_addr()?.as_socket().map_or(port, |address| address.port());

        let v4 = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        v4.set_nonblocking(true)?;
        v4.set_tos_v4(TRAFFIC_CLASS)?;
        setsockopt(&v4, sockopt::Ipv4PacketInfo, &true)?;
        enlarge_buffer(&v4)?;
        v4.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
        Ok(Self {
            v6,
            v4,
            port,
            joined: BTreeSet::new(),
            v4_first: false,
            buffer: vec![0; PACKET_LEN_MAX],
            control: nix::cmsg_space!(in6_pktinfo),
        })
    }

    /// The sockets, to be watched.
    pub fn as_fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.v6.as_fd(), self.v4.as_fd()]
    }

    /// Starts listening and sending on an interface.
    pub fn join(&mut self, ifindex: u32) -> io::Result<()> {
        if self.joined.insert(ifindex) {
            match self.v6.join_multicast_v6(&BABEL_GROUP, ifindex) {
                // A membership may have survived a short absence of the interface.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                joined => joined?,
            }
        }
        Ok(())
    }

    /// Stops listening and sending on an interface.
    pub fn leave(&mut self, ifindex: u32) {
        if self.joined.remove(&ifindex) {
            // Fails when the interface is gone, and the membership with it.
            let _ = self.v6.leave_multicast_v6(&BABEL_GROUP, ifindex);
        }
    }

    /// Takes the next datagram; `None` when no more are waiting.
    pub fn receive(&mut self) -> io::Result<Option<Received>> {
        self.v4_first = !self.v4_first;
        for v4 in [self.v4_first, !self.v4_first] {
            let socket = if v4 { self.v4.as_raw_fd() } else { self.v6.as_raw_fd() };
            if let Some(received) = self.receive_from(socket)? {
                return Ok(Some(received));
            }
        }
        Ok(None)
    }

    /// One that is too long for the buffer, or without addresses, is no datagram of Babel's, and left out.
    fn receive_from(&mut self, socket: RawFd) -> io::Result<Option<Received>> {
        loop {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let message = match recvmsg::<SockaddrStorage>(socket, &mut parts, Some(&mut self.control), flags) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let to = message.cmsgs().ok().and_then(|mut messages| {
                messages.find_map(|message| match message {
                    ControlMessageOwned::Ipv6PacketInfo(info) => {
                        Some((info.ipi6_ifindex, Ipv6Addr::from(info.ipi6_addr.s6_addr)))
                    }
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        let address = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).to_ipv6_mapped();
                        u32::try_from(info.ipi_ifindex).ok().map(|ifindex| (ifindex, address))
                    }
                    _ => None,
                })
            });
            let (Some(source), Some((ifindex, destination))) = (message.address.and_then(address_of), to) else {
                continue;
            };
            if message.flags.contains(MsgFlags::MSG_TRUNC) {
                continue;
            }
            let (source, source_port) = source;
            return Ok(Some(Received { ifindex, source, source_port, destination, length: message.bytes }));
        }
    }

    /// The packet that was received last.
    pub fn packet(&self, received: &Received) -> Packet<'_> {
        Packet {
            ifindex: received.ifindex,
            source: received.source,
            source_port: received.source_port,
            destination: received.destination,
            payload: &self.buffer[..received.length],
        }
    }

    /// Sends one packet from our address by its interface.
    pub fn send(&self, transmit: &Transmit) -> io::Result<()> {
        let ifindex = transmit.ifindex;
        if !self.joined.contains(&ifindex) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let parts = [IoSlice::new(&transmit.payload)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let to = transmit.unicast.unwrap_or(BABEL_GROUP);
        if let (Some(source), Some(to)) = (transmit.source.to_ipv4_mapped(), to.to_ipv4_mapped()) {
            let info = in_pktinfo {
                ipi_ifindex: i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?,
                ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
                ipi_addr: in_addr { s_addr: 0 },
            };
            let control = [ControlMessage::Ipv4PacketInfo(&info), ControlMessage::Ipv4Ttl(&ROUTED_HOPS)];
            let to = SockaddrIn::from(SocketAddrV4::new(to, self.port));
            sendmsg(self.v4.as_raw_fd(), &parts, &control, flags, Some(&to))?;
            return Ok(());
        }
        let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: transmit.source.octets() }, ipi6_ifindex: ifindex };
        let control = [ControlMessage::Ipv6PacketInfo(&info), ControlMessage::Ipv6HopLimit(&ROUTED_HOPS)];
        let routed = !to.is_multicast() && !to.is_unicast_link_local();
        let control = if routed { &control[..] } else { &control[..1] };
        let to = SockaddrIn6::from(SocketAddrV6::new(to, self.port, 0, ifindex));
        sendmsg(self.v6.as_raw_fd(), &parts, control, flags, Some(&to))?;
        Ok(())
    }
}

/// Beyond the system's limit where that is allowed; what there is must do otherwise.
fn enlarge_buffer(socket: &Socket) -> io::Result<()> {
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER_LEN).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN)?;
    }
    Ok(())
}

/// Address and port of a sender, an IPv4 one in its mapped form.
fn address_of(address: SockaddrStorage) -> Option<(Ipv6Addr, u16)> {
    let v6 = address.as_sockaddr_in6().map(|v6| (v6.ip(), v6.port()));
    v6.or_else(|| address.as_sockaddr_in().map(|v4| (v4.ip().to_ipv6_mapped(), v4.port())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    /// Index of the loopback interface in a namespace that nobody changed.
    const LO: u32 = 1;

    #[test]
    fn a_port_in_use_is_an_error() {
        let first = BabelSocket::bind(0).unwrap();
        let second = BabelSocket::bind(first.port).err().expect("a refusal");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let v4 = UdpSocket::bind("0.0.0.0:0").unwrap();
        let second = BabelSocket::bind(v4.local_addr().unwrap().port()).err().expect("a refusal");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn datagrams_of_both_families_come_in_turn_with_their_addresses() {
        let mut socket = BabelSocket::bind(0).unwrap();
        for (from, to) in [("127.0.0.2", "127.0.0.1"), ("::1", "::1")] {
            let stranger = UdpSocket::bind((from, 0)).unwrap();
            let from = stranger.local_addr().unwrap();
            for _ in 0..3 {
                stranger.send_to(b"hello", (to, socket.port)).unwrap();
            }
            for _ in 0..3 {
                let received = socket.receive().unwrap().expect("it is there");
                let packet = socket.packet(&received);
                assert_eq!((packet.ifindex, packet.payload), (LO, &b"hello"[..]));
                assert_eq!(packet.destination.to_canonical(), to.parse::<std::net::IpAddr>().unwrap());
                assert_eq!((packet.source.to_canonical(), packet.source_port), (from.ip(), from.port()));
            }
            assert!(socket.receive().unwrap().is_none());
        }
    }

    #[test]
    fn peers_are_sent_to_from_the_address_that_was_chosen() {
        let mut socket = BabelSocket::bind(0).unwrap();
        let transmit = |source: &str, to: &str| Transmit {
            ifindex: LO,
            source: source.parse().unwrap(),
            unicast: Some(to.parse().unwrap()),
            payload: vec![1],
        };
        let transmits = [transmit("::ffff:127.0.0.2", "::ffff:127.0.0.1"), transmit("::1", "::1")];
        let refused = socket.send(&transmits[0]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable, "not joined");
        socket.joined.insert(LO);
        for transmit in transmits {
            socket.send(&transmit).unwrap();
            let received = socket.receive().unwrap().expect("it came back");
            let packet = socket.packet(&received);
            assert_eq!((packet.source, Some(packet.destination)), (transmit.source, transmit.unicast));
            assert_eq!(packet.source_port, socket.port);
        }
    }
}
