//! Sends a stream from an ordinary UDP socket, paced to a bit rate.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::payload::{PAYLOAD_LEN, Payload};
use crate::state::InterfaceState;
use crate::time::monotonic_ns;

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Tells streams apart at the receiver.
    pub id: u32,
    /// Where to.
    pub group: IpAddr,
    /// Destination port.
    pub port: u16,
    /// Bits per second of UDP payload.
    pub bits_per_second: u64,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// How many packets; until stopped when absent.
    pub packets: Option<u64>,
}

impl Stream {
    /// A stream of 10 Mbit/s to port 5004 of a group, until stopped.
    pub fn to(group: IpAddr) -> Self {
        Self { id: 1, group, port: 5004, bits_per_second: 10_000_000, ttl: 16, tos: 0, packets: None }
    }

    /// With this number.
    #[must_use]
    pub fn id(mut self, id: u32) -> Self {
        self.id = id;
        self
    }

    /// At this rate.
    #[must_use]
    pub fn bits_per_second(mut self, rate: u64) -> Self {
        self.bits_per_second = rate;
        self
    }

    /// That many packets, then no more.
    #[must_use]
    pub fn packets(mut self, packets: u64) -> Self {
        self.packets = Some(packets);
        self
    }

    fn interval_ns(&self) -> u64 {
        PAYLOAD_LEN as u64 * 8 * 1_000_000_000 / self.bits_per_second.max(1)
    }
}

/// A stream being sent.
pub struct Sender {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<SenderReport>>,
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    sent: AtomicU64,
}

/// What was sent.
#[derive(Clone, Debug)]
pub struct SenderReport {
    /// Number of the stream.
    pub stream: u32,
    /// When each packet was sent, in order of their sequence numbers, in nanoseconds of `CLOCK_MONOTONIC`.
    pub sent_ns: Vec<u64>,
    /// Why sending ended early.
    pub error: Option<String>,
}

impl SenderReport {
    /// How many packets were sent.
    pub fn sent(&self) -> u64 {
        self.sent_ns.len() as u64
    }
}

impl Sender {
    pub(crate) fn start(host: Host<'_>, interface: &InterfaceState, stream: Stream) -> Result<Self> {
        let what = format!("opening a socket to send to {} on {}", stream.group, host.name());
        let socket = host.namespace().enter(|| open(&stream, interface))?.map_err(Error::io(what))?;
        let progress = Arc::new(Progress::default());
        let shared = Arc::clone(&progress);
        let thread = thread::Builder::new()
            .name(format!("send-{}", stream.id))
            .spawn(move || run(&socket, &stream, &shared))
            .map_err(Error::io("starting a thread"))?;
        Ok(Self { progress, thread: Some(thread) })
    }

    /// Packets sent so far.
    pub fn sent(&self) -> u64 {
        self.progress.sent.load(Ordering::Relaxed)
    }

    /// Stops and tells what was sent.
    pub fn stop(mut self) -> SenderReport {
        self.progress.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits until all packets of a stream with an end are sent.
    pub fn finish(mut self) -> SenderReport {
        self.join()
    }

    fn join(&mut self) -> SenderReport {
        let thread = self.thread.take().expect("joined once, by value");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.progress.stop.store(true, Ordering::Relaxed);
    }
}

fn open(stream: &Stream, interface: &InterfaceState) -> std::io::Result<Socket> {
    let source = interface.address(stream.group);
    let domain = if stream.group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    match source {
        IpAddr::V4(source) => {
            socket.set_multicast_if_v4(&source)?;
            socket.set_multicast_ttl_v4(stream.ttl.into())?;
            socket.set_tos_v4(stream.tos.into())?;
        }
        IpAddr::V6(_) => {
            socket.set_multicast_if_v6(rustix::net::netdevice::name_to_index(&socket, &interface.name)?)?;
            socket.set_multicast_hops_v6(stream.ttl.into())?;
            socket.set_tclass_v6(stream.tos.into())?;
        }
    }
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect(&SocketAddr::new(stream.group, stream.port).into())?;
    Ok(socket)
}

fn run(socket: &Socket, stream: &Stream, progress: &Progress) -> SenderReport {
    let mut report = SenderReport { stream: stream.id, sent_ns: Vec::new(), error: None };
    let start = monotonic_ns();
    while !progress.stop.load(Ordering::Relaxed) && stream.packets.is_none_or(|packets| report.sent() < packets) {
        let due = start + report.sent() * stream.interval_ns();
        let now = monotonic_ns();
        if due > now {
            thread::sleep(Duration::from_nanos(due - now));
        }
        let payload = Payload { stream: stream.id, sequence: report.sent(), sent_ns: monotonic_ns() };
        if let Err(error) = socket.send(&payload.to_bytes()) {
            report.error = Some(error.to_string());
            break;
        }
        report.sent_ns.push(payload.sent_ns);
        progress.sent.store(report.sent(), Ordering::Relaxed);
    }
    report
}
