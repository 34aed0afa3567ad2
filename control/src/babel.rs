//! The UDP socket of the Babel domain: every packet in and out of it, with the interface and addresses it went by.
//!
//! RFC 8966 §4: packets travel between link-local addresses, on the Babel port at both ends, with a hop limit of 1
//! (§5); the destination address is needed for the MAC's pseudo-header (RFC 8967 §4.1).

use gemcast_engine::input::Packet;
use gemcast_engine::output::Transmit;
use nix::libc::{in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// The group all Babel speakers of a link hear (RFC 8966 §5).
pub const BABEL_GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 6);
/// RFC 8966 packets fit the MTU; the largest UDP payload there is fits here.
const PACKET_LEN_MAX: usize = 1 << 16;
/// Whole tables of several neighbours arrive at once when we start.
const RECEIVE_BUFFER_LEN: usize = 2 << 20;
/// Internetwork control (CS6), as routing protocols use.
const TRAFFIC_CLASS: u32 = 0xc0;

/// The socket.
pub struct BabelSocket {
    socket: Socket,
    port: u16,
    /// Our address on each interface, to send from.
    addresses: BTreeMap<u32, Ipv6Addr>,
    buffer: Vec<u8>,
    control: Vec<u8>,
}

/// A datagram's place in the socket's buffer and where it came from.
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
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(true)?;
        socket.set_nonblocking(true)?;
        socket.set_multicast_hops_v6(1)?;
        socket.set_unicast_hops_v6(1)?;
        socket.set_multicast_loop_v6(false)?;
        socket.set_tclass_v6(TRAFFIC_CLASS)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        // Beyond the system's limit where that is allowed; what there is must do otherwise.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_LEN).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN)?;
        }
        socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into())?;
        Ok(Self {
            socket,
            port,
            addresses: BTreeMap::new(),
            buffer: vec![0; PACKET_LEN_MAX],
            control: nix::cmsg_space!(in6_pktinfo),
        })
    }

    /// Starts listening on an interface, and sending from our address on it.
    pub fn join(&mut self, ifindex: u32, address: Ipv6Addr) -> io::Result<()> {
        if self.addresses.insert(ifindex, address).is_none() {
            match self.socket.join_multicast_v6(&BABEL_GROUP, ifindex) {
                // A membership may have survived a short absence of the interface.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                joined => joined?,
            }
        }
        Ok(())
    }

    /// Stops listening on an interface.
    pub fn leave(&mut self, ifindex: u32) {
        if self.addresses.remove(&ifindex).is_some() {
            // Fails when the interface is gone, and the membership with it.
            let _ = self.socket.leave_multicast_v6(&BABEL_GROUP, ifindex);
        }
    }

    /// Takes the next datagram; `None` when no more are waiting. Datagrams that cannot be Babel's are left out.
    pub fn receive(&mut self) -> io::Result<Option<Received>> {
        loop {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let message =
                match recvmsg::<SockaddrIn6>(self.socket.as_raw_fd(), &mut parts, Some(&mut self.control), flags) {
                    Ok(message) => message,
                    Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                    Err(nix::errno::Errno::EINTR) => continue,
                    Err(error) => return Err(error.into()),
                };
            let info = message.cmsgs().ok().and_then(|mut messages| {
                messages.find_map(|message| match message {
                    ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
                    _ => None,
                })
            });
            let (Some(source), Some(info)) = (message.address, info) else { continue };
            if message.flags.contains(MsgFlags::MSG_TRUNC) || !acceptable(source.ip(), source.port(), self.port) {
                continue;
            }
            return Ok(Some(Received {
                ifindex: info.ipi6_ifindex,
                source: source.ip(),
                source_port: source.port(),
                destination: Ipv6Addr::from(info.ipi6_addr.s6_addr),
                length: message.bytes,
            }));
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

    /// Sends one packet from our address on its interface.
    pub fn send(&self, transmit: &Transmit) -> io::Result<()> {
        let address = self.addresses.get(&transmit.ifindex).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let to = SocketAddrV6::new(transmit.unicast.unwrap_or(BABEL_GROUP), self.port, 0, transmit.ifindex);
        let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: address.octets() }, ipi6_ifindex: transmit.ifindex };
        let parts = [IoSlice::new(&transmit.payload)];
        let control = [ControlMessage::Ipv6PacketInfo(&info)];
        let flags = MsgFlags::MSG_DONTWAIT;
        sendmsg(self.socket.as_raw_fd(), &parts, &control, flags, Some(&SockaddrIn6::from(to)))?;
        Ok(())
    }
}

/// RFC 8966 §4: a packet from another port, or from an address that is not link-local, is silently ignored.
fn acceptable(source: Ipv6Addr, source_port: u16, port: u16) -> bool {
    source.is_unicast_link_local() && source_port == port
}

impl AsFd for BabelSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for BabelSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_an_error() {
        let first = BabelSocket::bind(0).unwrap();
        let port = first.socket.local_addr().unwrap().as_socket_ipv6().unwrap().port();
        let second = BabelSocket::bind(port).err().expect("a refusal");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn only_link_local_senders_on_the_babel_port_are_heard() {
        let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
        assert!(acceptable(link_local, 6696, 6696));
        assert!(!acceptable(link_local, 6697, 6696));
        for source in ["::1", "2001:db8::1", "fd00::1", "ff02::1:6", "::ffff:10.0.0.1", "::"] {
            assert!(!acceptable(source.parse().unwrap(), 6696, 6696), "{source}");
        }
    }

    #[test]
    fn a_stranger_on_loopback_is_not_heard() {
        let mut socket = BabelSocket::bind(0).unwrap();
        let port = socket.socket.local_addr().unwrap().as_socket_ipv6().unwrap().port();
        let stranger = std::net::UdpSocket::bind("[::1]:0").unwrap();
        stranger.send_to(b"hello", ("::1", port)).unwrap();
        assert!(socket.receive().unwrap().is_none());
    }

    #[test]
    fn nothing_is_sent_by_an_interface_that_is_not_joined() {
        let socket = BabelSocket::bind(0).unwrap();
        let transmit = Transmit { ifindex: 1, unicast: None, payload: vec![1] };
        assert_eq!(socket.send(&transmit).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }
}
