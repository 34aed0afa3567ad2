//! A raw socket on one interface: frames in and out, as they are on the link.
//!
//! The standard library and socket2 have no safe way to say `sockaddr_ll` or the two packet options used here, so this
//! file calls libc.
#![allow(unsafe_code)]

use std::io::{self, Read};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::error::{Error, Result};
use crate::host::Host;

/// Receive buffer: at 10,000 full frames a second, over a second of them.
const RECEIVE_BUFFER: usize = 32 << 20;

/// A raw socket on one interface of a host. It hears every frame that arrives there, and none of those it sends.
pub struct PacketSocket {
    socket: Socket,
}

impl PacketSocket {
    pub(crate) fn open(host: Host<'_>, interface: &str) -> Result<Self> {
        let what = format!("opening a raw socket on {} of {}", interface, host.name());
        let opened = host.namespace().enter(|| open(interface))?;
        opened.map(|socket| Self { socket }).map_err(Error::io(what))
    }

    /// Opens it in the namespace that this process is in.
    pub(crate) fn open_here(interface: &str) -> io::Result<Self> {
        open(interface).map(|socket| Self { socket })
    }

    /// Makes receiving return at once when there is nothing.
    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        self.socket.set_nonblocking(true)
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.socket.send(frame).map(drop).map_err(Error::io(format!("sending a frame of {} bytes", frame.len())))
    }

    /// Receives a frame; nothing, when none came in time.
    pub(crate) fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        match (&self.socket).read(buffer) {
            Ok(len) => Ok(Some(&buffer[..len])),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Frames the kernel could not keep for us since the last call.
    pub(crate) fn lost(&self) -> io::Result<u64> {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: both pointers are to locals that live through the call, and `len` is the size of `stats`.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        if result == 0 { Ok(stats.tp_drops.into()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open(interface: &str) -> io::Result<Socket> {
    let index = rustix::net::netdevice::name_to_index(
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?,
        interface,
    )?;
    let all = (libc::ETH_P_ALL as u16).to_be();
    // Protocol 0 hears nothing until the socket is bound to its interface.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let ignore: libc::c_int = 1;
    // SAFETY: the pointer is to a local of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const ignore).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a storage is large and aligned enough for every kind of socket address, and all zeros is a valid one.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    address.sll_ifindex = index as i32;
    // SAFETY: the storage holds a `sockaddr_ll`, and that is the length given.
    let address = unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
    socket.bind(&address)?;
    Ok(socket)
}
