//! Babel's routes in the kernel's table, through netlink (rtnetlink(7)).
//!
//! Ours are told from all others by protocol (RTPROT_BABEL), table and metric together: only those are ever changed, and
//! none is there before the start or after the end. The kernel's answer to every change is read; what it refused is
//! tried again, and what vanished behind our back is put back.

use gemcast_engine::output::{Route, RouteAction};
use gemcast_proto::wire::babel::Prefix;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Room for any datagram of the kernel's.
const DATAGRAM_LEN: usize = 1 << 16;
/// The kernel answers at once; this only keeps a broken one from stopping the daemon.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// First wait before a refused change is tried again; doubled each time.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How often the kernel's table is compared with what was written.
const AUDIT_INTERVAL: Duration = Duration::from_secs(30);
/// The same, after an interface changed: the kernel drops routes over an interface that goes down.
const AUDIT_SOON: Duration = Duration::from_millis(200);

/// Whether and where routes are installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Whether they are installed at all.
    pub install: bool,
    /// Number of the kernel's table.
    pub table: u32,
    /// The kernel's metric (priority) of each; less is preferred.
    pub metric: u32,
}

/// What a route leads to: a prefix, possibly only for packets from a source prefix (RFC 9079).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Destination {
    /// Where to.
    pub prefix: Prefix,
    /// Where from.
    pub source: Option<Prefix>,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Some(source) => write!(f, "{} from {source}", self.prefix),
            None => write!(f, "{}", self.prefix),
        }
    }
}

/// Why a route is not as wanted.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The kernel has no such routes.
    #[error("{0}: the kernel has no IPv4 routes by source; set source_specific = false in [babel]")]
    Ipv4BySource(Destination),
    /// The kernel was built without them.
    #[error(
        "{0}: this kernel has no IPv6 routes by source (CONFIG_IPV6_SUBTREES); set source_specific = false in [babel]"
    )]
    Ipv6BySource(Destination),
    /// Somebody else's route has its place.
    #[error(
        "{destination}: another route with metric {metric} is in table {table}; remove it, or set another route_metric \
         in [babel]"
    )]
    Taken {
        /// Which.
        destination: Destination,
        /// The metric of both.
        metric: u32,
        /// The table.
        table: u32,
    },
    /// Not allowed.
    #[error("{0}: not permitted; run gemcastd as root or with CAP_NET_ADMIN, or set install_routes = false in [babel]")]
    NotPermitted(Destination),
    /// Anything else.
    #[error("{destination}: {error}")]
    Kernel {
        /// Which.
        destination: Destination,
        /// What the kernel said.
        error: io::Error,
    },
}

/// What became of a route that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing<'a> {
    /// In the kernel's table.
    Installed,
    /// Not there, and why.
    Refused(&'a str),
    /// Not wanted there.
    Absent,
}

/// Changes made and refused, since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Routes written or removed.
    pub changes: u64,
    /// Changes refused by the kernel, each attempt counted.
    pub refused: u64,
    /// Routes that were gone and put back.
    pub restored: u64,
}

/// A change to be tried again.
struct Refused {
    why: String,
    wait: Duration,
    at: Instant,
}

/// The kernel's table, as far as it is ours.
pub struct RouteTable {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    settings: Settings,
    /// What the engine wants.
    wanted: BTreeMap<Destination, RouteAction>,
    /// What is there.
    installed: BTreeSet<Destination>,
    refused: BTreeMap<Destination, Refused>,
    audit_at: Instant,
    /// What happened so far.
    pub counts: Counts,
}

impl RouteTable {
    /// Opens a socket and removes what an earlier process left.
    pub fn open(settings: Settings, now: Instant) -> io::Result<Self> {
        let mut socket = Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        // The kernel then lists what is asked for, instead of everything (Linux 4.20).
        socket.set_netlink_get_strict_chk(true)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WAIT))?;
        let mut table = Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(DATAGRAM_LEN),
            settings,
            wanted: BTreeMap::new(),
            installed: BTreeSet::new(),
            refused: BTreeMap::new(),
            audit_at: now + AUDIT_INTERVAL,
            counts: Counts::default(),
        };
        table.purge()?;
        Ok(table)
    }

    /// Moves the routes to another table or metric, or installs them no more.
    pub fn configure(&mut self, settings: Settings, now: Instant) -> io::Result<()> {
        if settings == self.settings {
            return Ok(());
        }
        let purged = self.purge();
        self.settings = settings;
        self.refused.clear();
        let wanted: Vec<_> = self.wanted.keys().copied().collect();
        wanted.into_iter().for_each(|destination| self.write(destination, now));
        purged
    }

    /// Carries out what the engine wants.
    pub fn apply(&mut self, route: &Route, now: Instant) {
        let destination = Destination { prefix: route.prefix, source: route.source };
        match route.action {
            RouteAction::Withdraw => self.wanted.remove(&destination),
            action => self.wanted.insert(destination, action),
        };
        self.write(destination, now);
    }

    /// When [`RouteTable::tick`] is due.
    pub fn deadline(&self) -> Instant {
        self.refused.values().map(|refused| refused.at).fold(self.audit_at, Instant::min)
    }

    /// Tries refused changes again and looks after what is there, whatever is due.
    pub fn tick(&mut self, now: Instant) {
        let due = |(destination, refused): (&Destination, &Refused)| (refused.at <= now).then_some(*destination);
        let due: Vec<_> = self.refused.iter().filter_map(due).collect();
        due.into_iter().for_each(|destination| self.write(destination, now));
        if self.audit_at <= now {
            self.audit_at = now + AUDIT_INTERVAL;
            if let Err(error) = self.audit(now) {
                tracing::warn!("cannot list the kernel's routes: {error}");
            }
        }
    }

    /// An interface changed; routes over it may be gone.
    pub fn audit_soon(&mut self, now: Instant) {
        self.audit_at = self.audit_at.min(now + AUDIT_SOON);
    }

    /// Removes every route of ours from the kernel's table.
    pub fn purge(&mut self) -> io::Result<()> {
        self.installed.clear();
        let found = self.list()?;
        found.into_iter().try_for_each(|destination| self.delete(destination))
    }

    /// What became of a destination.
    pub fn standing(&self, destination: &Destination) -> Standing<'_> {
        match self.refused.get(destination) {
            Some(refused) => Standing::Refused(&refused.why),
            None if self.wanted.contains_key(destination) && self.installed.contains(destination) => {
                Standing::Installed
            }
            None => Standing::Absent,
        }
    }

    /// Number of routes that are not as wanted, and why the first is not.
    pub fn trouble(&self) -> Option<(usize, &str)> {
        self.refused.values().next().map(|first| (self.refused.len(), first.why.as_str()))
    }

    /// Routes of ours in the kernel's table.
    pub fn installed(&self) -> usize {
        self.installed.len()
    }

    /// Brings one destination to what is wanted.
    fn write(&mut self, destination: Destination, now: Instant) {
        let wanted = self.wanted.get(&destination).copied().filter(|_| self.settings.install);
        let known = self.installed.contains(&destination);
        let written = match wanted {
            Some(action) => self.put(destination, action, known),
            None if known => self.delete(destination).map_err(|error| self.explain(destination, error)),
            None => Ok(()),
        };
        match written {
            Ok(()) => {
                if self.refused.remove(&destination).is_some() {
                    tracing::info!(route = %destination, "route accepted by the kernel");
                }
                if wanted.is_some() || known {
                    self.counts.changes += 1;
                }
                if wanted.is_some() {
                    self.installed.insert(destination)
                } else {
                    self.installed.remove(&destination)
                };
            }
            Err(error) => {
                self.counts.refused += 1;
                let why = error.to_string();
                let before = self.refused.get(&destination);
                let wait = before.map_or(RETRY_MIN, |before| (before.wait * 2).min(RETRY_MAX));
                if before.is_none_or(|before| before.why != why) {
                    tracing::error!("route refused by the kernel: {why}");
                }
                self.refused.insert(destination, Refused { why, wait, at: now + wait });
            }
        }
    }

    fn put(&mut self, destination: Destination, action: RouteAction, known: bool) -> Result<(), RouteError> {
        if destination.source.is_some() && destination.prefix.is_ipv4() {
            return Err(RouteError::Ipv4BySource(destination));
        }
        let mut message = self.message(destination);
        match action {
            RouteAction::Install { next_hop, ifindex, on_link, .. } => {
                message.header.kind = RouteType::Unicast;
                message.attributes.push(RouteAttribute::Oif(ifindex));
                message.attributes.push(match (destination.prefix.is_ipv4(), next_hop) {
                    // RFC 9229: an IPv4 route by way of an IPv6 neighbour.
                    (true, IpAddr::V6(next_hop)) => RouteAttribute::Via(RouteVia::Inet6(next_hop)),
                    _ => RouteAttribute::Gateway(next_hop.into()),
                });
                // Whatever our own prefix on the link: Babel has just heard the neighbour there.
                if on_link {
                    message.header.flags = RouteFlags::Onlink;
                }
            }
            RouteAction::Unreachable | RouteAction::Withdraw => message.header.kind = RouteType::Unreachable,
        }
        message.header.scope = RouteScope::Universe;
        // Ours is replaced; for a new one the place has to be free.
        let flags = if known { NLM_F_REPLACE } else { NLM_F_EXCL };
        let put = self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | flags);
        put.map_err(|error| self.explain(destination, error))
    }

    /// Removes a route of ours; one that is not there is removed already.
    fn delete(&mut self, destination: Destination) -> io::Result<()> {
        let mut message = self.message(destination);
        message.header.scope = RouteScope::NoWhere;
        match self.request(RouteNetlinkMessage::DelRoute(message), 0) {
            Err(error) if is(&error, Errno::SRCH) || is(&error, Errno::NODEV) => Ok(()),
            deleted => deleted,
        }
    }

    /// Compares with the kernel's table: what is gone is put back, what nobody wants goes.
    fn audit(&mut self, now: Instant) -> io::Result<()> {
        let found = self.list()?;
        let gone: Vec<_> = self.installed.difference(&found).copied().collect();
        for destination in &gone {
            self.installed.remove(destination);
            self.write(*destination, now);
        }
        let stray: Vec<_> = found.difference(&self.installed).copied().collect();
        for destination in &stray {
            self.delete(*destination)?;
        }
        if !gone.is_empty() || !stray.is_empty() {
            self.counts.restored += gone.len() as u64;
            tracing::warn!(restored = gone.len(), removed = stray.len(), "the kernel's routes were changed by another");
        }
        Ok(())
    }

    /// The routes of ours in the kernel's table.
    fn list(&mut self) -> io::Result<BTreeSet<Destination>> {
        let mut found = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.protocol = RouteProtocol::Babel;
            message.attributes = vec![RouteAttribute::Table(self.settings.table)];
            self.send(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)?;
            let settings = self.settings;
            let listed = self.answers(|message| {
                if let RouteNetlinkMessage::NewRoute(message) = message {
                    found.extend(ours(settings, &message));
                }
            });
            match listed {
                // A table that nothing is in does not exist.
                Err(error) if is(&error, Errno::NOENT) => {}
                listed => listed?,
            }
        }
        Ok(found)
    }

    /// What names a route of ours.
    fn message(&self, destination: Destination) -> RouteMessage {
        let Destination { prefix, source } = destination;
        let table = self.settings.table;
        let mut message = RouteMessage::default();
        message.header.address_family = if prefix.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.destination_prefix_length = prefix.len();
        message.header.source_prefix_length = source.map_or(0, |source| source.len());
        message.header.protocol = RouteProtocol::Babel;
        message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        message.attributes = vec![
            RouteAttribute::Destination(prefix.address().into()),
            RouteAttribute::Table(table),
            RouteAttribute::Priority(self.settings.metric),
        ];
        message.attributes.extend(source.map(|source| RouteAttribute::Source(source.address().into())));
        message
    }

    /// Sends a change and reads the kernel's answer to it.
    fn request(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(request, NLM_F_ACK | flags)?;
        self.answers(|_| {})
    }

    fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Reads answers to the last request up to the one that ends them.
    fn answers(&mut self, mut take: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, 0) {
                // Only the kernel (port 0) speaks for the kernel.
                Ok((_, from)) if from.port_number() == 0 => {}
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let mut rest = &self.buffer[..];
            while let Ok(buffer) = NetlinkBuffer::new_checked(rest) {
                let length = buffer.length() as usize;
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]);
                // Messages are aligned to four bytes; the last one may end without padding.
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                let Ok(message) = message else { continue };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) => return Ok(()),
                    NetlinkPayload::InnerMessage(message) => take(message),
                    _ => {}
                }
            }
        }
    }

    fn explain(&self, destination: Destination, error: io::Error) -> RouteError {
        let Settings { table, metric, .. } = self.settings;
        if is(&error, Errno::EXIST) {
            RouteError::Taken { destination, metric, table }
        } else if is(&error, Errno::PERM) {
            RouteError::NotPermitted(destination)
        } else if is(&error, Errno::INVAL) && destination.source.is_some() {
            RouteError::Ipv6BySource(destination)
        } else {
            RouteError::Kernel { destination, error }
        }
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// The destination of a route, when it is one of ours.
fn ours(settings: Settings, message: &RouteMessage) -> Option<Destination> {
    let header = &message.header;
    let v4 = header.address_family == AddressFamily::Inet;
    let mut whole = if v4 { Prefix::IPV4_DEFAULT } else { Prefix::IPV6_DEFAULT };
    let (mut source, mut table, mut metric) = (None, u32::from(header.table), 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => whole = prefix(address, header.destination_prefix_length)?,
            RouteAttribute::Source(address) => source = Some(prefix(address, header.source_prefix_length)?),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let ours = header.protocol == RouteProtocol::Babel && table == settings.table && metric == settings.metric;
    ours.then_some(Destination { prefix: whole, source })
}

fn prefix(address: &RouteAddress, len: u8) -> Option<Prefix> {
    let address = match address {
        RouteAddress::Inet(address) => IpAddr::V4(*address),
        RouteAddress::Inet6(address) => IpAddr::V6(*address),
        _ => return None,
    };
    Prefix::new(address, len).ok()
}
