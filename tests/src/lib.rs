//! The gemcast lab: hosts in network namespaces, gateways that run the real daemons, ordinary traffic, an observer.
//!
//! A test reads as a story: `let lab = Lab::up(Topology::pair(), Options::new("f33"))?;`, a stream from a host to a
//! host, `lab.gateway("b").kill_control()?`, `lab.eventually(5.s(), "b answers", || …)?`. Dropping the lab removes
//! exactly what it made. Everything happens inside the lab's own namespaces; the machine's network is not touched.

mod account;
mod administrator;
mod capture;
mod config;
mod error;
mod facts;
mod fault;
mod frame;
mod gateway;
mod gem;
mod host;
mod lab;
mod namespace;
mod packet_socket;
mod payload;
mod pcap;
mod process;
mod receiver;
mod sender;
pub mod simulator;
mod state;
mod time;
mod topology;
mod wiring;

pub use account::{Account, Window};
pub use administrator::Administrator;
pub use capture::{Capture, CaptureReport, RunningCapture, SEALED_PORT};
pub use config::{Group, Protection, Suite};
pub use error::{Error, Result};
pub use facts::{DaemonFacts, Facts, GatewayFacts, HostFacts};
pub use fault::{
    Chaos, ChaosEvent, ChaosReport, ChaosStep, Effect, Fault, FrameClass, LinkFault, MapFault, Plan, Step, run_wire,
};
pub use frame::{Datagram, Mac, fix_checksums, vlan_tagged};
pub use gateway::{Daemon, Gateway, Interface};
pub use gem::{BABEL_PORT, GemTraffic};
pub use host::Host;
pub use lab::{BinaryDir, Lab, Options};
pub use namespace::Namespace;
pub use packet_socket::PacketSocket;
pub use payload::{FILLER, PAYLOAD_LEN, Payload, RTP_LEN};
pub use process::ProcessId;
pub use receiver::{Received, Receiver, ReceiverReport};
pub use sender::{Sender, SenderReport, Stream};
pub use state::{HostKind, HostState, InterfaceState, ROOT, State};
pub use time::{Seconds, monotonic_ns};
pub use topology::{Attachment, Role, Segment, Topology};
