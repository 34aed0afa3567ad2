//! Listens to a link and judges every frame: sealed, in the clear, or neither; and whether a nonce was ever used twice.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::error::{Error, Result};
use crate::frame::Datagram;
use crate::packet_socket::PacketSocket;
use crate::payload::FILLER;
use crate::pcap::PcapFile;

/// UDP destination port of sealed packets.
pub const SEALED_PORT: u16 = 48623;
/// Nonces one capture remembers: an hour of 2,000 packets a second.
const MAX_NONCES: usize = 8 << 20;
/// Frames in the clear it keeps to show.
const MAX_EXAMPLES: usize = 4;

/// A capture, to be configured and then started.
pub struct Capture {
    socket: PacketSocket,
    groups: Vec<IpAddr>,
    keep: usize,
    pcap: Option<PathBuf>,
}

/// A capture that runs.
pub struct RunningCapture {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<CaptureReport>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What was heard on a link.
#[derive(Clone, Debug, Default)]
pub struct CaptureReport {
    /// Frames of any kind.
    pub frames: u64,
    /// Datagrams to the port of sealed packets, long enough for their header.
    pub sealed: u64,
    /// Frames that hold a stream's filler, and datagrams to a protected group on another port than sealed packets use.
    pub cleartext: u64,
    /// The first of those.
    pub cleartext_examples: Vec<Vec<u8>>,
    /// Sealed packets whose (key id, counter) was heard before, in other bytes: a nonce used twice.
    pub nonces_reused: u64,
    /// Sealed packets heard before in just these bytes.
    pub sealed_repeated: u64,
    /// Sealed packets by key id.
    pub keys: HashMap<u32, u64>,
    /// The first datagrams, as many as were asked for.
    pub datagrams: Vec<Datagram>,
    /// Frames that the kernel could not keep for the capture.
    pub missed: u64,
    nonces: HashMap<(u32, u64), u64>,
    hasher: RandomState,
}

impl Capture {
    pub(crate) fn new(socket: PacketSocket) -> Self {
        Self { socket, groups: Vec::new(), keep: 0, pcap: None }
    }

    /// Groups that must not be seen in the clear.
    #[must_use]
    pub fn protected(mut self, groups: &[IpAddr]) -> Self {
        self.groups = groups.into();
        self
    }

    /// Keeps the first datagrams whole.
    #[must_use]
    pub fn keep(mut self, datagrams: usize) -> Self {
        self.keep = datagrams;
        self
    }

    /// Writes every frame to a capture file.
    #[must_use]
    pub fn pcap(mut self, path: impl Into<PathBuf>) -> Self {
        self.pcap = Some(path.into());
        self
    }

    /// Starts to listen.
    pub fn start(self) -> Result<RunningCapture> {
        let mut pcap = match &self.pcap {
            Some(path) => Some(PcapFile::create(path).map_err(Error::file(path))?),
            None => None,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(CaptureReport::default()));
        let (stop_too, report_too) = (Arc::clone(&stop), Arc::clone(&report));
        let run = move || {
            let mut buffer = vec![0; 65536];
            // After the signal to stop, what the socket still holds is read too.
            loop {
                let stopping = stop_too.load(Ordering::Relaxed);
                match self.socket.receive(&mut buffer)? {
                    Some(frame) => {
                        if let Some(pcap) = &mut pcap {
                            pcap.write(frame)?;
                        }
                        let mut report = report_too.lock().unwrap_or_else(PoisonError::into_inner);
                        report.take(frame, &self.groups, self.keep);
                    }
                    None if stopping => break,
                    None => {}
                }
            }
            report_too.lock().unwrap_or_else(PoisonError::into_inner).missed = self.socket.lost()?;
            pcap.map_or(Ok(()), PcapFile::finish)
        };
        let thread =
            thread::Builder::new().name("capture".into()).spawn(run).map_err(Error::io("starting a thread"))?;
        Ok(RunningCapture { stop, report, thread: Some(thread) })
    }
}

impl RunningCapture {
    /// What was heard so far.
    pub fn report(&self) -> CaptureReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at what was heard so far without copying it.
    pub fn look<T>(&self, see: impl FnOnce(&CaptureReport) -> T) -> T {
        see(&self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stops and tells what was heard.
    pub fn stop(mut self) -> Result<CaptureReport> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ended.map_err(Error::io("capturing"))?;
        }
        Ok(std::mem::take(&mut *self.report.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Drop for RunningCapture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl CaptureReport {
    fn take(&mut self, frame: &[u8], groups: &[IpAddr], keep: usize) {
        self.frames += 1;
        let datagram = Datagram::parse(frame);
        let protected = |datagram: &Datagram| groups.contains(&datagram.group) && datagram.port != SEALED_PORT;
        if datagram.as_ref().is_some_and(protected) || holds(frame, FILLER) {
            self.cleartext += 1;
            if self.cleartext_examples.len() < MAX_EXAMPLES {
                self.cleartext_examples.push(frame.into());
            }
        }
        let Some(datagram) = datagram else { return };
        if let Some((key_id, counter)) = nonce(&datagram) {
            self.take_sealed(key_id, counter, &datagram.payload);
        }
        if self.datagrams.len() < keep {
            self.datagrams.push(datagram);
        }
    }

    fn take_sealed(&mut self, key_id: u32, counter: u64, bytes: &[u8]) {
        self.sealed += 1;
        *self.keys.entry(key_id).or_default() += 1;
        let hash = self.hasher.hash_one(bytes);
        let room = self.nonces.len() < MAX_NONCES;
        match self.nonces.entry((key_id, counter)) {
            Entry::Vacant(entry) if room => drop(entry.insert(hash)),
            Entry::Vacant(_) => {}
            Entry::Occupied(first) if *first.get() == hash => self.sealed_repeated += 1,
            Entry::Occupied(_) => self.nonces_reused += 1,
        }
    }
}

/// Key id and counter of a sealed packet.
pub(crate) fn nonce(datagram: &Datagram) -> Option<(u32, u64)> {
    if datagram.port != SEALED_PORT {
        return None;
    }
    let key_id = datagram.payload.get(4..8)?.first_chunk()?;
    let counter = datagram.payload.get(8..16)?.first_chunk()?;
    Some((u32::from_be_bytes(*key_id), u64::from_be_bytes(*counter)))
}

fn holds(frame: &[u8], needle: &[u8]) -> bool {
    frame.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Mac;
    use crate::payload::Payload;

    const GROUP: &str = "239.1.1.1";

    fn heard(datagrams: &[Datagram]) -> CaptureReport {
        let mut report = CaptureReport::default();
        for datagram in datagrams {
            report.take(&datagram.to_frame(), &[GROUP.parse().unwrap()], 0);
        }
        report
    }

    fn datagram(group: &str, port: u16, payload: &[u8]) -> Datagram {
        Datagram::new(Mac([2; 6]), "10.0.0.1".parse().unwrap(), group.parse().unwrap(), port, payload)
    }

    fn sealed(counter: u8, rest: u8) -> Datagram {
        datagram(
            GROUP,
            SEALED_PORT,
            &[&[0x10, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, counter][..], &[rest; 40]].concat(),
        )
    }

    #[test]
    fn cleartext_is_recognised_by_group_and_by_content() {
        let payload = Payload { stream: 1, sequence: 1, sent_ns: 1 }.to_bytes();
        assert_eq!(heard(&[datagram(GROUP, 5004, b"anything")]).cleartext, 1);
        assert_eq!(heard(&[datagram("239.9.9.9", SEALED_PORT, &payload)]).cleartext, 1);
        assert_eq!(heard(&[datagram("239.9.9.9", 5004, b"someone else's")]).cleartext, 0);
        assert_eq!(heard(&[sealed(1, 0)]).cleartext, 0);
    }

    #[test]
    fn a_nonce_in_other_bytes_is_reuse_and_in_the_same_bytes_a_repeat() {
        let report = heard(&[sealed(1, 0), sealed(2, 0), sealed(1, 0), sealed(1, 1)]);
        assert_eq!((report.sealed, report.sealed_repeated, report.nonces_reused), (4, 1, 1));
        assert_eq!(report.keys[&9], 4);
    }
}
