//! The kernel's interfaces, as far as the packet path cares: index, address, MTU, state, XDP mode. From rtnetlink(7).

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp, XdpAttached};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

const RTMGRP_LINK: u32 = 1;
const RECEIVE_BUFFER: usize = 1 << 16;

/// An interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Kernel index.
    pub ifindex: u32,
    /// Ethernet address; `None` for what is no Ethernet.
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes.
    pub mtu: usize,
    /// Up and running.
    pub up: bool,
    /// Mode of the XDP program that is attached.
    pub xdp: Option<XdpAttached>,
}

/// All interfaces by name, as the kernel describes them now.
pub fn interfaces() -> io::Result<HashMap<String, Interface>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut buffer = vec![0; request.buffer_len()];
    request.serialize(&mut buffer);
    socket.send_to(&buffer, &SocketAddr::new(0, 0), 0)?;
    let mut found = HashMap::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while rest.len() >= 16 {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::other(error.to_string()))?;
            let length = (message.header.length as usize).next_multiple_of(4).max(16);
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    if let Some((name, interface)) = describe(&link) {
                        found.insert(name, interface);
                    }
                }
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn describe(link: &LinkMessage) -> Option<(String, Interface)> {
    let mut name = None;
    let running = LinkFlags::Up | LinkFlags::Running;
    let mut interface =
        Interface { ifindex: link.header.index, mac: None, mtu: 0, up: link.header.flags.contains(running), xdp: None };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Address(value) => interface.mac = value.as_slice().try_into().ok(),
            LinkAttribute::Mtu(value) => interface.mtu = *value as usize,
            LinkAttribute::Xdp(values) => {
                for value in values {
                    if let LinkXdp::Attached(attached) = value
                        && *attached != XdpAttached::None
                    {
                        interface.xdp = Some(*attached);
                    }
                }
            }
            _ => {}
        }
    }
    Some((name?, interface))
}

/// Tells that some interface changed.
pub struct Monitor(Socket);

impl Monitor {
    /// Listens from now on.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, RTMGRP_LINK))?;
        Ok(Self(socket))
    }

    /// Reads away what was said; what it means is asked for anew.
    pub fn drain(&self) {
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        while self.0.recv_from(&mut buffer, 0).is_ok() {
            buffer.clear();
        }
    }

    /// For the event loop.
    pub fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
