//! The wire: a process that carries every frame of a segment by hand, so that links can be as bad as a test wants.
//!
//! Kernels need not have netem, and netem knows neither Babel from data nor who sent what. Each host's veth ends in the
//! switch's namespace as `wire…h`; the wire copies frames between it and `wire…s`, whose other end is the bridge's port.
//!
//! ```text
//! host wan0 ═ wire…h ◀─ wire ─▶ wire…s ═ port of the bridge
//!                          └──▶ tap-…, a copy of each frame as the hosts sent it
//! ```
//! It is asked over a Unix socket, one JSON line each way. VLAN tags do not survive it: packet sockets take them off.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::link::{LinkFault, Links, Passing, Place};
use crate::error::{Error, Result};
use crate::frame::Mac;
use crate::packet_socket::PacketSocket;
use crate::time::monotonic_ns;

/// Frames taken from one socket before the others have their turn.
const BATCH: usize = 64;
/// How often an interface that went away is looked for.
const REOPEN_NS: u64 = 50_000_000;
/// How long either side of a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest frame, with room to spare.
const MAX_FRAME: usize = 65536;

/// Name of the wire's binary.
pub(crate) const BINARY: &str = "gemcast-lab-wire";

/// What a wire is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WireConfig {
    /// Where it is asked.
    pub(crate) socket: PathBuf,
    /// Interface that gets a copy of each frame the hosts send.
    pub(crate) tap: String,
    /// The hosts' links.
    pub(crate) links: Vec<WireLink>,
}

/// A host's link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WireLink {
    /// The host.
    pub(crate) host: String,
    /// Its hardware address.
    pub(crate) mac: Mac,
    /// Interface towards the host.
    pub(crate) outer: String,
    /// Interface towards the bridge.
    pub(crate) inner: String,
}

/// What a wire is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Add this fault.
    Add(LinkFault),
    /// End this fault.
    Remove(LinkFault),
    /// End all faults.
    Clear,
    /// Start the random decisions anew.
    Seed(u64),
}

#[derive(Serialize, Deserialize)]
struct Response {
    error: Option<String>,
}

/// Asks the wire at this socket.
pub(crate) fn ask(socket: &Path, request: &Request) -> Result<()> {
    let failed = || Error::io(format!("asking the wire at {}", socket.display()));
    let mut stream = UnixStream::connect(socket).map_err(failed())?;
    stream.set_read_timeout(Some(REQUEST_TIMEOUT)).map_err(failed())?;
    let mut line = serde_json::to_string(request).expect("a request has string keys only");
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(failed())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(failed())?;
    let refused = |reason| Error::Unreadable { what: format!("the wire at {}", socket.display()), reason };
    match serde_json::from_str::<Response>(&answer) {
        Ok(Response { error: None }) => Ok(()),
        Ok(Response { error: Some(reason) }) => Err(refused(reason)),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// One side of a host's link, closed while its interface is away.
struct Side {
    interface: String,
    socket: Option<PacketSocket>,
}

impl Side {
    fn reopen(&mut self) {
        if self.socket.is_none() {
            let opened = PacketSocket::open_here(&self.interface);
            self.socket = opened.ok().filter(|socket| socket.set_nonblocking().is_ok());
        }
    }
}

struct Wire {
    links: Links,
    /// Towards the host and towards the bridge, of each host.
    sides: Vec<[Side; 2]>,
    tap: Side,
    listener: UnixListener,
}

/// Runs a wire; does not return unless it cannot start. It is ended with the lab, by a signal.
pub fn run_wire(config: &str) -> Result<()> {
    let config: WireConfig = serde_json::from_str(config)
        .map_err(|error| Error::Unreadable { what: "the wire's configuration".into(), reason: error.to_string() })?;
    let _ = fs::remove_file(&config.socket);
    let listener = UnixListener::bind(&config.socket).map_err(Error::file(&config.socket))?;
    listener.set_nonblocking(true).map_err(Error::file(&config.socket))?;
    let side = |name: &str| Side { interface: name.into(), socket: None };
    let sides = config.links.iter().map(|link| [side(&link.outer), side(&link.inner)]).collect();
    let hosts = config.links.iter().map(|link| (link.host.clone(), link.mac)).collect();
    let mut wire = Wire { links: Links::new(hosts), sides, tap: side(&config.tap), listener };
    let mut buffer = vec![0; MAX_FRAME];
    let mut reopen_ns = 0;
    loop {
        let now = monotonic_ns();
        if now >= reopen_ns {
            wire.sides.iter_mut().flatten().chain([&mut wire.tap]).for_each(Side::reopen);
            reopen_ns = now + REOPEN_NS;
        }
        wire.wait(reopen_ns).map_err(Error::io("waiting for frames"))?;
        wire.serve();
        for host in 0..wire.sides.len() {
            for inward in [false, true] {
                wire.take(Place { host, inward }, &mut buffer);
            }
        }
        let now = monotonic_ns();
        while let Some(passing) = wire.links.due(now) {
            wire.carry(&passing);
        }
    }
}

impl Wire {
    fn wait(&self, latest_ns: u64) -> std::io::Result<()> {
        let until = self.links.next_due_ns().map_or(latest_ns, |due| due.min(latest_ns));
        let left = until.saturating_sub(monotonic_ns());
        let left = Timespec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as i64 };
        let sockets = self.sides.iter().flatten().filter_map(|side| side.socket.as_ref());
        let fds = sockets.map(AsFd::as_fd).chain([self.listener.as_fd()]);
        let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes frames that go by at a place.
    fn take(&mut self, place: Place, buffer: &mut [u8]) {
        let side = &mut self.sides[place.host][usize::from(place.inward)];
        for _ in 0..BATCH {
            let Some(socket) = &side.socket else { return };
            match socket.receive(buffer) {
                Ok(Some(frame)) => {
                    if let Some(tap) = self.tap.socket.as_ref().filter(|_| !place.inward) {
                        // What the tap cannot take is counted as missed by who listens there, if it was heard at all.
                        let _ = tap.send(frame);
                    }
                    self.links.offer(monotonic_ns(), place, frame);
                }
                Ok(None) => return,
                // The interface went down, which shows once, or away, which shows only in that it is another one now.
                Err(_) => side.socket = None,
            }
        }
    }

    /// Sends a frame on; a link that is down or full loses it.
    fn carry(&mut self, passing: &Passing) {
        let Place { host, inward } = passing.place;
        let side = &mut self.sides[host][usize::from(!inward)];
        if side.socket.as_ref().is_some_and(|socket| socket.send(&passing.frame).is_err_and(|error| error.is_gone())) {
            side.socket = None;
        }
    }

    fn serve(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            // Who asks and then leaves or says nothing only harms itself.
            let _ = self.answer(stream);
        }
    }

    fn answer(&mut self, mut stream: UnixStream) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
        let mut line = String::new();
        BufReader::new(stream.try_clone()?).read_line(&mut line)?;
        let error = match serde_json::from_str(&line) {
            Ok(Request::Add(fault)) => self.links.add(fault).err(),
            Ok(Request::Remove(fault)) => (!self.links.remove(&fault)).then(|| format!("there is no fault: {fault}")),
            Ok(Request::Clear) => {
                self.links.clear();
                None
            }
            Ok(Request::Seed(seed)) => {
                self.links.seed(seed);
                None
            }
            Err(error) => Some(error.to_string()),
        };
        let mut answer = serde_json::to_string(&Response { error }).expect("a response has string keys only");
        answer.push('\n');
        stream.write_all(answer.as_bytes())
    }
}
