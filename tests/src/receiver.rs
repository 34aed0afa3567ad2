//! Receives from an ordinary joined UDP socket and keeps account of what arrives, stream by stream.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::net::sockopt;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::payload::{PAYLOAD_LEN, Payload};
use crate::state::InterfaceState;
use crate::time::monotonic_ns;

/// Receive buffer of the socket, so that a busy test machine does not look like a lossy network.
const RECEIVE_BUFFER: usize = 16 << 20;
/// Streams one receiver keeps account of; packets of further ones count as corrupt.
const MAX_STREAMS: usize = 64;
/// Packets of one stream it keeps account of: 16 MiB of bits, half an hour at 1 Gbit/s.
const MAX_SEQUENCE: u64 = 1 << 27;

/// A joined socket and the thread that reads it.
pub struct Receiver {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<ReceiverReport>>,
    thread: Option<JoinHandle<()>>,
}

/// What arrived at one socket.
#[derive(Clone, Debug, Default)]
pub struct ReceiverReport {
    /// By stream.
    pub streams: BTreeMap<u32, Received>,
    /// Datagrams that were not what any sender sent.
    pub corrupt: u64,
    /// Why receiving ended early.
    pub error: Option<String>,
}

/// What arrived of one stream.
#[derive(Clone, Debug)]
pub struct Received {
    /// Different packets.
    pub delivered: u64,
    /// Packets that had arrived before.
    pub duplicated: u64,
    /// Packets that arrived after one with a higher sequence number.
    pub reordered: u64,
    /// Nanoseconds from sending to receiving.
    pub latency: Histogram<u64>,
    /// When the latest packet arrived, in nanoseconds of `CLOCK_MONOTONIC`.
    pub last_ns: u64,
    highest: u64,
    seen: Vec<u64>,
}

impl Default for Received {
    fn default() -> Self {
        Self {
            delivered: 0,
            duplicated: 0,
            reordered: 0,
            latency: Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are a constant"),
            last_ns: 0,
            highest: 0,
            seen: Vec::new(),
        }
    }
}

impl Received {
    /// Whether the packet of this sequence number arrived.
    pub fn has(&self, sequence: u64) -> bool {
        self.seen.get((sequence / 64) as usize).is_some_and(|word| word & 1 << (sequence % 64) != 0)
    }

    /// Whether every packet of these sequence numbers arrived.
    fn has_all(&self, mut sequences: Range<u64>) -> bool {
        sequences.all(|sequence| self.has(sequence))
    }

    fn take(&mut self, payload: Payload, now_ns: u64) {
        let (word, bit) = ((payload.sequence / 64) as usize, 1 << (payload.sequence % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        self.last_ns = now_ns;
        if self.seen[word] & bit != 0 {
            self.duplicated += 1;
            return;
        }
        self.seen[word] |= bit;
        self.reordered += u64::from(payload.sequence < self.highest);
        self.highest = self.highest.max(payload.sequence);
        self.delivered += 1;
        self.latency.saturating_record(now_ns.saturating_sub(payload.sent_ns));
    }
}

impl ReceiverReport {
    /// What arrived of a stream, if anything did.
    pub fn stream(&self, id: u32) -> Received {
        self.streams.get(&id).cloned().unwrap_or_default()
    }

    /// Different packets of all streams.
    pub fn delivered(&self) -> u64 {
        self.streams.values().map(|stream| stream.delivered).sum()
    }

    fn take(&mut self, datagram: &[u8], now_ns: u64) {
        let payload = Payload::parse(datagram).filter(|payload| {
            payload.sequence < MAX_SEQUENCE
                && (self.streams.len() < MAX_STREAMS || self.streams.contains_key(&payload.stream))
        });
        match payload {
            Some(payload) => self.streams.entry(payload.stream).or_default().take(payload, now_ns),
            None => self.corrupt += 1,
        }
    }
}

impl Receiver {
    pub(crate) fn start(
        host: Host<'_>,
        interface: &InterfaceState,
        group: IpAddr,
        port: u16,
        source: Option<IpAddr>,
    ) -> Result<Self> {
        let what = format!("joining {group} on {}", host.name());
        let opened = host.namespace().enter(|| open(group, port, source, interface))?;
        let socket = opened.map_err(Error::io(what))?;
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(ReceiverReport::default()));
        let (stop_too, report_too) = (Arc::clone(&stop), Arc::clone(&report));
        let thread = thread::Builder::new()
            .name(format!("receive-{group}"))
            .spawn(move || run(&socket, &stop_too, &report_too))
            .map_err(Error::io("starting a thread"))?;
        Ok(Self { stop, report, thread: Some(thread) })
    }

    /// What has arrived so far.
    pub fn report(&self) -> ReceiverReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Different packets of all streams that have arrived so far.
    pub fn delivered(&self) -> u64 {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).delivered()
    }

    /// When the latest packet of any stream arrived, in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn last_ns(&self) -> u64 {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.streams.values().map(|stream| stream.last_ns).max().unwrap_or(0)
    }

    /// Whether every packet of a stream with these sequence numbers has arrived.
    pub fn has_all(&self, stream: u32, sequences: Range<u64>) -> bool {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        sequences.is_empty() || report.streams.get(&stream).is_some_and(|one| one.has_all(sequences))
    }

    /// Waits until nothing has arrived for `quiet`, then stops and tells what arrived.
    pub fn finish(self, quiet: Duration) -> ReceiverReport {
        let mut before = u64::MAX;
        loop {
            let now = self.last_ns();
            if now == before {
                break;
            }
            before = now;
            thread::sleep(quiet);
        }
        self.stop()
    }

    /// Stops and tells what arrived.
    pub fn stop(mut self) -> ReceiverReport {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        self.report()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn open(group: IpAddr, port: u16, source: Option<IpAddr>, interface: &InterfaceState) -> io::Result<Socket> {
    let domain = if group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    // Bound to the group, the socket hears only what goes there.
    socket.bind(&SocketAddr::new(group, port).into())?;
    let index = rustix::net::netdevice::name_to_index(&socket, &interface.name)?;
    match (group, source) {
        (IpAddr::V4(group), None) => socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?,
        (IpAddr::V4(group), Some(IpAddr::V4(source))) => socket.join_ssm_v4(&source, &group, &interface.ipv4)?,
        (IpAddr::V6(group), None) => socket.join_multicast_v6(&group, index)?,
        _ => return Err(io::Error::new(ErrorKind::Unsupported, "source-specific joins are IPv4 here")),
    }
    Ok(socket)
}

fn run(socket: &Socket, stop: &AtomicBool, report: &Mutex<ReceiverReport>) {
    let mut socket = socket;
    // One byte more than a payload, so that a longer datagram does not look like one.
    let mut buffer = [0; PAYLOAD_LEN + 1];
    while !stop.load(Ordering::Relaxed) {
        match socket.read(&mut buffer) {
            Ok(len) => {
                let now = monotonic_ns();
                report.lock().unwrap_or_else(PoisonError::into_inner).take(&buffer[..len], now);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => {
                report.lock().unwrap_or_else(PoisonError::into_inner).error = Some(error.to_string());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_is_counted_once_as_what_it_is() {
        let mut report = ReceiverReport::default();
        for sequence in [0, 2, 1, 2, 70] {
            report.take(&Payload { stream: 1, sequence, sent_ns: 0 }.to_bytes(), 1000);
        }
        report.take(&Payload { stream: 2, sequence: 0, sent_ns: 0 }.to_bytes(), 1000);
        report.take(b"neither", 1000);
        let first = report.stream(1);
        assert_eq!((first.delivered, first.duplicated, first.reordered), (4, 1, 1));
        assert!(first.has(70) && !first.has(69) && !first.has(1 << 40));
        assert_eq!((report.delivered(), report.corrupt), (5, 1));
    }
}
