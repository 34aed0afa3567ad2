//! A host of the lab: commands and sockets inside its namespaces.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::process::{Command, Output, Stdio};

use crate::capture::Capture;
use crate::error::{Error, Result};
use crate::namespace::Namespace;
use crate::packet_socket::PacketSocket;
use crate::receiver::Receiver;
use crate::sender::{Sender, Stream};
use crate::state::{HostState, InterfaceState};

/// A host.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    state: &'a HostState,
}

impl<'a> Host<'a> {
    pub(crate) fn new(state: &'a HostState) -> Self {
        Self { state }
    }

    /// Its name.
    pub fn name(&self) -> &'a str {
        &self.state.name
    }

    /// Its namespaces.
    pub fn namespace(&self) -> &'a Namespace {
        &self.state.namespace
    }

    /// Its interfaces.
    pub fn interfaces(&self) -> &'a [InterfaceState] {
        &self.state.interfaces
    }

    /// Its first interface; the only one of a LAN host.
    pub fn interface(&self) -> &'a InterfaceState {
        self.state.interfaces.first().expect("every host but the switch has an interface")
    }

    /// Its interface of that name.
    pub fn interface_named(&self, name: &str) -> &'a InterfaceState {
        let found = self.state.interfaces.iter().find(|interface| interface.name == name);
        found.unwrap_or_else(|| panic!("host {} has no interface `{name}`", self.state.name))
    }

    /// Its interface of that name, if it has one.
    pub fn find_interface(&self, name: &str) -> Result<&'a InterfaceState> {
        self.state.interfaces.iter().find(|interface| interface.name == name).ok_or_else(|| Error::NoInterface {
            host: self.state.name.clone(),
            interface: name.into(),
            known: self.state.interfaces.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Its address on its first interface, of the same family as `like`.
    pub fn address(&self, like: IpAddr) -> IpAddr {
        self.interface().address(like)
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.state.namespace.command(program)
    }

    /// Runs a command inside and returns its output, whatever its exit status.
    pub fn output(&self, words: &[&str]) -> Result<Output> {
        let mut command = self.command(words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        command.output().map_err(Error::io(format!("starting `{}`", words.join(" "))))
    }

    /// Runs a command inside, which must succeed, and returns what it printed.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.output(words)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::Command {
            command: format!("{}: {}", self.name(), words.join(" ")),
            outcome: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts to send a stream from an ordinary UDP socket.
    pub fn send(&self, stream: Stream) -> Result<Sender> {
        Sender::start(*self, self.interface(), stream)
    }

    /// Starts to send a stream out of one of its interfaces.
    pub fn send_on(&self, interface: &str, stream: Stream) -> Result<Sender> {
        Sender::start(*self, self.interface_named(interface), stream)
    }

    /// Joins a group with an ordinary UDP socket and starts to count what arrives. With a source, joins only that.
    pub fn receive(&self, group: IpAddr, port: u16, source: Option<IpAddr>) -> Result<Receiver> {
        Receiver::start(*self, self.interface(), group, port, source)
    }

    /// Joins a group on one of its interfaces.
    pub fn receive_on(&self, interface: &str, group: IpAddr, port: u16, source: Option<IpAddr>) -> Result<Receiver> {
        Receiver::start(*self, self.interface_named(interface), group, port, source)
    }

    /// A raw socket on one of its interfaces.
    pub fn packet_socket(&self, interface: &str) -> Result<PacketSocket> {
        PacketSocket::open(*self, interface)
    }

    /// A capture on one of its interfaces, to be configured and started.
    pub fn capture(&self, interface: &str) -> Result<Capture> {
        Ok(Capture::new(self.packet_socket(interface)?))
    }
}
