//! What a network card does to frames before the program sees them, through SIOCETHTOOL (linux/ethtool.h).
#![allow(unsafe_code)]

use rustix::fd::AsRawFd;
use rustix::net::{AddressFamily, SocketType};
use std::io;

const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// VLAN receive offload among the flags.
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// A C struct that begins with the command and that the kernel reads and writes as a whole.
///
/// # Safety
/// It is laid out as the struct that the kernel has for each command it is used with.
unsafe trait Request {}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    value: u32,
}

// SAFETY: used with ETHTOOL_GFLAGS and ETHTOOL_SFLAGS.
unsafe impl Request for Value {}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

// SAFETY: used with ETHTOOL_GCHANNELS.
unsafe impl Request for Channels {}

/// Number of receive queues an interface has (`ethtool --show-channels`); `None` when the driver does not tell.
pub fn receive_queues(interface: &str) -> Option<u32> {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    ask(interface, &mut channels).ok()?;
    Some(channels.combined + channels.rx).filter(|&queues| queues > 0)
}

/// Turns VLAN receive offload on or off; whether it was the other way. A card with the offload takes the tag off a frame
/// before XDP sees it, so that what belongs to a VLAN looks like the interface's own. An interface that has no such
/// offload has it off.
pub fn set_vlan_receive_offload(interface: &str, on: bool) -> io::Result<bool> {
    let Some(flags) = flags(interface)? else {
        return if on { Err(io::ErrorKind::Unsupported.into()) } else { Ok(false) };
    };
    if (flags & ETH_FLAG_RXVLAN != 0) == on {
        return Ok(false);
    }
    ask(interface, &mut Value { command: ETHTOOL_SFLAGS, value: flags ^ ETH_FLAG_RXVLAN })?;
    // The kernel may take a request and keep what another feature of the card needs.
    match self::flags(interface)? {
        Some(now) if (now & ETH_FLAG_RXVLAN != 0) == on => Ok(true),
        _ => Err(io::Error::other("the driver keeps it as it is")),
    }
}

/// The flags of an interface; `None` for a kind that has none.
fn flags(interface: &str) -> io::Result<Option<u32>> {
    let mut flags = Value { command: ETHTOOL_GFLAGS, value: 0 };
    match ask(interface, &mut flags) {
        Ok(()) => Ok(Some(flags.value)),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error),
    }
}

fn ask<T: Request>(interface: &str, request: &mut T) -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: ifreq is a C struct for which all zeroes is a value.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= ifreq.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (slot, byte) in ifreq.ifr_name.iter_mut().zip(interface.bytes()) {
        *slot = byte as libc::c_char;
    }
    ifreq.ifr_ifru.ifru_data = std::ptr::from_mut(request).cast();
    // SAFETY: SIOCETHTOOL reads and writes what `ifru_data` points to, of the layout that the command in it names, which
    // `Request` promises; both live past the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, std::ptr::from_mut(&mut ifreq)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_without_the_offload_has_it_off() {
        assert!(!set_vlan_receive_offload("lo", false).unwrap());
        assert!(set_vlan_receive_offload("lo", true).is_err());
        assert!(set_vlan_receive_offload("no-such-if", false).is_err());
        assert!(set_vlan_receive_offload("a-name-too-long-for-the-kernel", false).is_err());
        assert_eq!(receive_queues("lo"), None);
    }
}
