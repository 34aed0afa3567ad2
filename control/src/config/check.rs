//! From the file as written to a configuration that makes sense, collecting every error on the way.

use super::file::{self, File, Parsed, Span};
use super::{
    Babel, Config, ConfigError, ConfigErrors, DATA_PORT, DEFAULT_BABEL_PORT, DEFAULT_INSTANCE, DEFAULT_ROUTE_METRIC,
    DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, DEFAULT_TABLE, GroupRule, Interface, Node, Protection, Role, Segment,
};
use crate::keyfile::{self, Identity, KeyFileError};
use crate::routes;
use gemcast_engine::config::{DelayMetric, Detection, Link, MacAlgorithm, Membership, Policy, PrefixRule};
use gemcast_engine::secret::Secret;
use gemcast_proto::id::{Epoch, Suite};
use gemcast_proto::wire::gem::is_plain_name;
use gemcast_xdp::layout::{MAX_INTERFACES, MAX_PORTS};
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// Bootstrap keys in use at a time; a packet has room for the MACs of so many.
const BOOTSTRAP_KEYS_MAX: usize = 4;
/// Unicast peers of one interface.
const PEERS_MAX: usize = 64;
/// IFNAMSIZ without the terminator.
const INTERFACE_NAME_LEN: usize = 15;
/// A NODE object has room for this many bytes of name.
const NODE_NAME_LEN: usize = 63;
/// A sane bound for the name of a segment.
const SEGMENT_NAME_LEN: usize = 63;
/// Priority of a gateway on its segment unless told otherwise.
const DEFAULT_PRIORITY: u8 = 100;
/// `sun_path` without the terminator.
const SOCKET_PATH_LEN: usize = 107;
/// Babel's intervals are 16-bit centiseconds (RFC 8966 §4.6.5).
const BABEL_INTERVAL: Range<Duration> = Duration::from_millis(10)..Duration::from_millis(655_351);
/// Hellos in a row whose loss makes a neighbour dead: one is lost now and then, and histories have 16 bits.
const DEAD_THRESHOLD: RangeInclusive<u8> = 2..=15;
/// What is kept of a dead neighbour takes memory.
const REMOVAL_GRACE: Range<Duration> = Duration::ZERO..Duration::from_millis(3_600_001);
/// A ban ends: it hits the key's rightful owner, too.
const BAN_TIME: Range<Duration> = Duration::from_secs(1)..Duration::from_secs(86_400 + 1);
/// Longest life of a key: a sane bound on how long a stolen one is of use.
const LIFETIME: Range<Duration> = Duration::from_secs(10)..Duration::from_secs(7 * 86_400 + 1);

/// The text under check, for places in errors.
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// An error at a place in the text.
    fn at(&self, span: &Range<usize>, message: String) -> ConfigError {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        ConfigError { path: self.path.display().to_string(), place: Some((line, column)), message, identity: false }
    }

    /// The parser's error in our words.
    pub(super) fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let message = error.message().trim().replace('\n', ", ");
        // A missing table has no place.
        let span = error.span().unwrap_or(0..0);
        let message = reword(&message, self.table(&span)).unwrap_or(message);
        self.at(&span, message)
    }

    /// Header of the table around a place: `[node]`, `[[group]]`, or nothing.
    fn table(&self, span: &Range<usize>) -> &str {
        let end = self.text.get(..span.end).map_or(self.text.len(), str::len);
        self.text[..end].lines().rev().map(str::trim).find(|line| line.starts_with('[')).map_or("", |line| {
            let close = line.rfind(']').map_or(line.len(), |at| at + 1);
            &line[..close]
        })
    }
}

/// serde says "unknown field `adress`, expected one of `address`, …": say it as an operator would, with a suggestion.
fn reword(message: &str, table: &str) -> Option<String> {
    let mut names = message.split('`').skip(1).step_by(2);
    let place = if table.is_empty() { String::new() } else { format!(" in {table}") };
    if message.starts_with("unknown field") {
        Some(format!("unknown key \"{}\"{place}{}", names.next()?, suggestion(message, names.collect())))
    } else if message.starts_with("unknown variant") {
        Some(format!("unknown value \"{}\"{place}{}", names.next()?, suggestion(message, names.collect())))
    } else if message.starts_with("missing field") {
        Some(format!("the key \"{}\" is missing{place}; add it", names.next()?))
    } else {
        None
    }
}

/// "did you mean …", or everything possible.
fn suggestion(message: &str, known: Vec<&str>) -> String {
    let written = message.split('`').nth(1).unwrap_or_default();
    let nearest = known.iter().map(|name| (distance(written, name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= 1 + name.len() / 4 => format!("; did you mean \"{name}\"?"),
        _ if known.is_empty() => "; remove it".into(),
        _ => format!("; expected one of {}", known.join(", ")),
    }
}

/// Edits (insert, delete, replace, swap of neighbours) from one word to another.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut edits = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                edits = edits.min(before_last[j - 2] + 1);
            }
            row.push(edits);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// Errors found so far, and where they are.
struct Checker<'a> {
    source: &'a Source<'a>,
    errors: Vec<ConfigError>,
}

/// The whole check.
pub(super) fn check(source: &Source<'_>, file: File) -> Result<Config, ConfigErrors> {
    let mut checker = Checker { source, errors: Vec::new() };
    let config = checker.config(file);
    match config {
        Some(config) if checker.errors.is_empty() => Ok(config),
        _ => {
            checker.errors.sort_by_key(|error| error.place);
            Err(ConfigErrors(checker.errors))
        }
    }
}

impl Checker<'_> {
    fn refuse(&mut self, span: &Range<usize>, message: impl Into<String>) {
        self.errors.push(self.source.at(span, message.into()));
    }

    fn config(&mut self, file: File) -> Option<Config> {
        let node = self.node(file.node);
        let bootstrap_keys = self.bootstrap_keys(&file.domain.bootstrap_key);
        let kmg = self.kmg(file.domain.kmg.as_ref());
        let membership = match file.domain.membership {
            file::Membership::Open => Membership::Open,
            file::Membership::Roster => Membership::Roster,
        };
        if membership == Membership::Roster && kmg.is_empty() {
            let span = file.domain.bootstrap_key.span();
            let message =
                "membership = \"roster\" without kmg: nobody could be listed; add the administrator's public key";
            self.refuse(&span, message);
        }
        let babel_port = match file.domain.babel_port {
            Some(port) if *port.get_ref() == 0 => {
                self.refuse(&port.span(), "babel_port is 0; expected a UDP port, Babel's own is 6696");
                DEFAULT_BABEL_PORT
            }
            Some(port) => port.into_inner(),
            None => DEFAULT_BABEL_PORT,
        };
        if let Some(port) = file.domain.port.filter(|port| *port.get_ref() != DATA_PORT) {
            let message = format!("data port {} is not supported; this version knows only {DATA_PORT}", port.get_ref());
            self.refuse(&port.span(), message);
        }
        let interfaces = self.interfaces(&file.interface);
        let groups = self.groups(file.group, !kmg.is_empty());
        self.roles(&interfaces, &groups);

        let seconds = Duration::from_secs;
        let hello_interval = self.span("hello_interval", file.resilience.hello_interval, seconds(1), &BABEL_INTERVAL);
        let update = file.resilience.update_interval;
        let update_interval = self.span("update_interval", update, seconds(10), &BABEL_INTERVAL);
        let detection =
            self.detection(file.resilience.dead_threshold, file.resilience.removal_grace, file.resilience.flap_damping);
        let ban_time = self.span("ban_time", file.resilience.ban_time, seconds(60), &BAN_TIME);
        let lifetime_at = file.keys.sek_lifetime.as_ref().map_or(0..0, Spanned::span);
        let sek_lifetime = self.span("sek_lifetime", file.keys.sek_lifetime, seconds(3600), &LIFETIME);
        let short = Duration::ZERO..LIFETIME.end;
        let announce_lead = self.span("announce_lead", file.keys.announce_lead, seconds(30), &short);
        let overlap = self.span("overlap", file.keys.overlap, seconds(10), &short);
        if sek_lifetime < announce_lead + overlap {
            let message = format!(
                "sek_lifetime {sek_lifetime:?} is shorter than announce_lead {announce_lead:?} and overlap {overlap:?} \
                 together; lengthen it, or shorten them"
            );
            self.refuse(&lifetime_at, message);
        }
        let policy = Policy {
            share_bans: file.policy.share_bans,
            obey_votes: file.policy.obey_votes.unwrap_or(membership == Membership::Roster),
        };
        let babel = self.babel(file.babel);
        Some(Config {
            node: node?,
            babel,
            bootstrap_keys,
            kmg,
            membership,
            babel_port,
            interfaces,
            groups,
            hello_interval,
            update_interval,
            detection,
            policy,
            ban_time,
            sek_lifetime,
            announce_lead,
            overlap,
        })
    }

    fn detection(
        &mut self,
        threshold: Option<Spanned<u8>>,
        grace: Option<Spanned<Parsed<Span>>>,
        flap_damping: bool,
    ) -> Detection {
        let default = Detection::default();
        let dead_threshold = threshold.as_ref().map_or(default.dead_threshold, |threshold| *threshold.get_ref());
        if let Some(place) = threshold.filter(|_| !DEAD_THRESHOLD.contains(&dead_threshold)) {
            let (least, most) = (DEAD_THRESHOLD.start(), DEAD_THRESHOLD.end());
            let message = format!("dead_threshold of {dead_threshold}; expected {least} to {most} missed Hellos");
            self.refuse(&place.span(), message);
        }
        let removal_grace = self.span("removal_grace", grace, default.removal_grace, &REMOVAL_GRACE);
        Detection { dead_threshold, removal_grace, flap_damping }
    }

    fn node(&mut self, node: file::Node) -> Option<Node> {
        let name = node.name.get_ref();
        if name.is_empty() || name.len() > NODE_NAME_LEN {
            let message = format!("node name of {} bytes; expected 1 to {NODE_NAME_LEN}", name.len());
            self.refuse(&node.name.span(), message);
        } else if name.contains(' ') || !is_plain_name(name) {
            self.refuse(&node.name.span(), "node name with white space or control characters; expected a plain word");
        }
        let place = node.instance.as_ref().map_or(node.name.span(), Spanned::span);
        let instance = node.instance.map_or_else(|| DEFAULT_INSTANCE.to_owned(), Spanned::into_inner);
        let run_dir = node.run_dir.unwrap_or_else(|| DEFAULT_RUN_DIR.into());
        if let Err(message) = check_place(&run_dir, &instance) {
            self.refuse(&place, message);
        }
        let (identity, on_backup) = self.identity(&node.identity, node.backup_identity.as_ref())?;
        Some(Node {
            name: node.name.into_inner(),
            identity,
            on_backup,
            state_dir: node.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            run_dir,
            instance,
            transit: node.transit,
        })
    }

    /// The identity, or that of the backup and why. A gateway without either does not start (F26).
    fn identity(
        &mut self,
        file: &Spanned<PathBuf>,
        backup: Option<&Spanned<PathBuf>>,
    ) -> Option<(Identity, Option<String>)> {
        let read = self.read_key_file(file.get_ref(), keyfile::read_identity);
        let backup = backup.map(|file| (self.read_key_file(file.get_ref(), keyfile::read_identity), file.span()));
        match (read, backup) {
            (Ok(identity), None | Some((Ok(_), _))) => Some((identity, None)),
            (Err(error), Some((Ok(backup), _))) => Some((backup, Some(error.to_string()))),
            (read, backup) => {
                // A backup that is of no use is found out now and not when it is needed.
                let backup = backup.and_then(|(backup, span)| Some((backup.err()?, span)));
                for (error, span) in read.err().map(|error| (error, file.span())).into_iter().chain(backup) {
                    let refusal = self.source.at(&span, error.to_string());
                    self.errors.push(ConfigError { identity: true, ..refusal });
                }
                None
            }
        }
    }

    /// Public keys of administrators.
    fn kmg(&mut self, keys: Option<&Spanned<file::OneOrMany<String>>>) -> Vec<[u8; 32]> {
        let Some(keys) = keys else { return Vec::new() };
        let mut checked = Vec::new();
        for text in &keys.get_ref().0 {
            match keyfile::parse_public_key(text) {
                Some(key) if checked.contains(&key) => {
                    self.refuse(&keys.span(), format!("kmg {text} is listed twice; remove one"));
                }
                Some(key) => checked.push(key),
                None => {
                    let message = format!(
                        "kmg \"{text}\" is no public key; expected 44 characters of base64, as `gemctl kmg init` prints"
                    );
                    self.refuse(&keys.span(), message);
                }
            }
        }
        checked
    }

    fn babel(&mut self, babel: file::Babel) -> Babel {
        let table = babel.table.as_ref().map_or(DEFAULT_TABLE, |table| *table.get_ref());
        if let Some(place) = babel.table.filter(|_| matches!(table, 0 | 255)) {
            let message = format!("table {table} is not for routes of ours; expected 254 (main), or one of your own");
            self.refuse(&place.span(), message);
        }
        let metric = babel.route_metric.as_ref().map_or(DEFAULT_ROUTE_METRIC, |metric| *metric.get_ref());
        if let Some(place) = babel.route_metric.filter(|_| metric == 0) {
            self.refuse(&place.span(), "route_metric is 0; expected 1 to 4294967295, less is preferred");
        }
        let mut announce = Vec::new();
        for prefix in &babel.announce {
            let Parsed(checked) = *prefix.get_ref();
            if announce.contains(&checked) {
                self.refuse(&prefix.span(), format!("prefix {checked} is listed twice; remove one"));
            } else if !is_routable(checked.address()) {
                let message = format!("prefix {checked} is not routable; expected one of unicast addresses");
                self.refuse(&prefix.span(), message);
            } else {
                announce.push(checked);
            }
        }
        let delay = babel.rtt.map(|rtt| self.round_trip(&rtt.span(), *rtt.get_ref()));
        let rules = |direction| {
            let rules = babel.filter.iter().filter(|filter| filter.direction == direction);
            let rule = |filter: &file::Filter| PrefixRule {
                within: filter.prefix.0,
                accept: filter.action == file::Action::Accept,
            };
            rules.map(rule).collect()
        };
        Babel {
            routes: routes::Settings { install: babel.install_routes, table, metric },
            announce,
            redistribute_connected: babel.redistribute_connected,
            mac: match babel.mac {
                file::Mac::HmacSha256 => MacAlgorithm::HmacSha256,
                file::Mac::Blake2s => MacAlgorithm::Blake2s,
            },
            ipv4_via_ipv6: babel.ipv4_via_ipv6,
            source_specific: babel.source_specific,
            unicast_hellos: babel.unicast_hellos,
            delay,
            import: rules(file::Direction::In),
            export: rules(file::Direction::Out),
        }
    }

    fn round_trip(&mut self, span: &Range<usize>, rtt: file::RoundTrip) -> DelayMetric {
        let file::RoundTrip { min: Parsed(Span(min)), max: Parsed(Span(max)), penalty } = rtt;
        if min >= max {
            self.refuse(span, format!("rtt from {min:?} to {max:?}; expected min below max"));
        }
        DelayMetric { min, max, penalty }
    }

    fn bootstrap_keys(&mut self, files: &Spanned<file::OneOrMany<PathBuf>>) -> Vec<Secret<32>> {
        let span = files.span();
        let files = &files.get_ref().0;
        if files.is_empty() {
            self.refuse(&span, "no bootstrap key; expected the path of a file made by `gemctl key generate bk`");
        }
        if files.len() > BOOTSTRAP_KEYS_MAX {
            let count = files.len();
            let message = format!(
                "{count} bootstrap keys; expected one, and during a rotation two, at most {BOOTSTRAP_KEYS_MAX}: every packet \
                 carries a MAC under each"
            );
            self.refuse(&span, message);
        }
        files.iter().filter_map(|file| self.key_file(&span, file, keyfile::read_key)).collect()
    }

    fn interfaces(&mut self, interfaces: &[Spanned<file::Interface>]) -> Vec<Interface> {
        let mut checked: Vec<Interface> = Vec::new();
        let mut places: Vec<Range<usize>> = Vec::new();
        for interface in interfaces {
            let interface = interface.get_ref();
            let (name, span) = (interface.name.get_ref(), interface.name.span());
            if name.is_empty() || name.len() > INTERFACE_NAME_LEN || name.contains(['/', ' ', '\t', ':']) {
                let message = format!("\"{name}\" is no interface name; expected 1 to {INTERFACE_NAME_LEN} characters");
                self.refuse(&span, message);
                continue;
            }
            if let Some(at) = checked.iter().position(|other| other.name == *name) {
                let line = self.source.at(&places[at], String::new()).place.map_or(0, |(line, _)| line);
                let first = checked[at].role;
                let message = if first == interface.role {
                    format!("interface \"{name}\" is listed twice, first in line {line}; remove one")
                } else {
                    format!(
                        "interface \"{name}\" is both trusted and untrusted ({} in line {line}); an interface has one \
                         role: remove one",
                        first.name()
                    )
                };
                self.refuse(&span, message);
                continue;
            }
            if checked.len() == MAX_INTERFACES as usize {
                self.refuse(&span, format!("more than {MAX_INTERFACES} interfaces; remove some"));
                break;
            }
            places.push(span);
            let babel = interface.babel.unwrap_or(interface.role == Role::Untrusted);
            let link = self.link(interface, babel);
            let segment = self.segment(interface, &checked);
            checked.push(Interface {
                name: name.clone(),
                role: interface.role,
                segment,
                babel,
                wireless: interface.wireless,
                link,
            });
        }
        checked
    }

    /// The LAN that an interface shares with other gateways. Who forwards a group is decided for a gateway as a whole, so
    /// all of its trusted interfaces are on one segment, or none is.
    fn segment(&mut self, interface: &file::Interface, before: &[Interface]) -> Option<Segment> {
        let (name, priority) = (interface.segment.as_ref(), interface.priority.as_ref());
        if interface.role == Role::Untrusted {
            let peers = interface.segment_peers.first().map(Spanned::span);
            let spans = [
                ("segment", name.map(Spanned::span)),
                ("priority", priority.map(Spanned::span)),
                ("segment_peers", peers),
            ];
            for (key, span) in spans {
                if let Some(span) = span {
                    let message = format!("{key} of an untrusted interface; only LANs have forwarders: remove it");
                    self.refuse(&span, message);
                }
            }
            return None;
        }
        if let (None, Some(priority)) = (name, priority) {
            let message = "priority without segment; name the LAN that other gateways are on, too, or remove it";
            self.refuse(&priority.span(), message);
        }
        if let (None, Some(peer)) = (name, interface.segment_peers.first()) {
            let message = "segment_peers without segment; name the LAN that these gateways are on, or remove them";
            self.refuse(&peer.span(), message);
        }
        let segment = name.map(|name| Segment {
            name: name.get_ref().clone(),
            priority: priority.map_or(DEFAULT_PRIORITY, |priority| *priority.get_ref()),
            peers: interface.segment_peers.iter().map(|peer| peer.get_ref().0).collect(),
        });
        let span = name.map_or(interface.name.span(), Spanned::span);
        if let Some(Segment { name, .. }) = &segment
            && (name.is_empty() || name.len() > SEGMENT_NAME_LEN || name.contains(|c: char| c.is_control() || c == ' '))
        {
            let message = format!("segment \"{name}\"; expected a plain word of 1 to {SEGMENT_NAME_LEN} bytes");
            self.refuse(&span, message);
        }
        let first = before.iter().find(|other| other.role == Role::Trusted);
        if let Some(first) = first.filter(|first| first.segment != segment) {
            let said = |segment: &Option<Segment>| match segment {
                Some(Segment { name, priority, peers }) if peers.is_empty() => {
                    format!("segment \"{name}\" with priority {priority}")
                }
                Some(Segment { name, priority, peers }) => {
                    format!("segment \"{name}\" with priority {priority} and {} segment_peers", peers.len())
                }
                None => "no segment".into(),
            };
            let message = format!(
                "interface \"{}\" is on {}, and \"{}\" on {}; a gateway forwards a group for all of its trusted \
                 interfaces or none: give them one segment and priority",
                interface.name.get_ref(),
                said(&segment),
                first.name,
                said(&first.segment),
            );
            self.refuse(&span, message);
        }
        segment
    }

    /// How Babel is spoken on an interface.
    fn link(&mut self, interface: &file::Interface, babel: bool) -> Link {
        if !babel {
            let settings = [
                ("hello_interval", interface.hello_interval.as_ref().map(Spanned::span)),
                ("update_interval", interface.update_interval.as_ref().map(Spanned::span)),
                ("unicast_hellos", interface.unicast_hellos.as_ref().map(Spanned::span)),
                ("rtt", interface.rtt.as_ref().map(Spanned::span)),
                ("mac", interface.mac.as_ref().map(Spanned::span)),
                ("peers", interface.peers.first().map(Spanned::span)),
            ];
            for (key, span) in settings {
                if let Some(span) = span {
                    let message = format!("{key} of an interface without Babel; set babel = true, or remove it");
                    self.refuse(&span, message);
                }
            }
        }
        let mut interval = |key, value: &Option<Spanned<Parsed<Span>>>| {
            value.as_ref().map(|value| self.interval(key, value, &BABEL_INTERVAL))
        };
        Link {
            hello_interval: interval("hello_interval", &interface.hello_interval),
            update_interval: interval("update_interval", &interface.update_interval),
            unicast_hellos: interface.unicast_hellos.as_ref().map(|on| *on.get_ref()),
            delay: interface
                .rtt
                .as_ref()
                .map(|rtt| rtt.get_ref().0.map(|round_trip| self.round_trip(&rtt.span(), round_trip))),
            unauthenticated: interface.mac.as_ref().is_some_and(|mac| !mac.get_ref()),
            peers: self.peers(&interface.peers),
        }
    }

    fn peers(&mut self, peers: &[Spanned<Parsed<file::Address>>]) -> Vec<IpAddr> {
        let mut checked = Vec::new();
        for peer in peers {
            let address = peer.get_ref().0.0;
            let v4 = match address {
                IpAddr::V4(v4) => Some(v4),
                IpAddr::V6(v6) => v6.to_ipv4_mapped(),
            };
            let broadcast = v4.is_some_and(|v4| v4.is_broadcast());
            if address.is_multicast() || address.is_unspecified() || address.is_loopback() || broadcast {
                let message = format!("peer {address} is no address of another gateway; expected a unicast address");
                self.refuse(&peer.span(), message);
            } else if let Some(v4) = v4.filter(|_| address.is_ipv6()) {
                self.refuse(&peer.span(), format!("peer {address} is IPv4 in the form of IPv6; write {v4}"));
            } else if checked.contains(&address) {
                self.refuse(&peer.span(), format!("peer {address} is listed twice; remove one"));
            } else if checked.len() == PEERS_MAX {
                self.refuse(&peer.span(), format!("more than {PEERS_MAX} peers of one interface; remove some"));
                break;
            } else {
                checked.push(address);
            }
        }
        checked
    }

    /// A gateway has two sides; one without groups may be a pure relay between untrusted interfaces.
    fn roles(&mut self, interfaces: &[Interface], groups: &[GroupRule]) {
        let has = |role| interfaces.iter().any(|interface| interface.role == role);
        let end = self.source.text.trim_end().len();
        if !has(Role::Untrusted) {
            let message = "no interface with role = \"untrusted\"; add an [[interface]] for the ciphertext side";
            self.refuse(&(end..end), message);
        }
        if !groups.is_empty() && !has(Role::Trusted) {
            let message =
                "groups, but no interface with role = \"trusted\"; add an [[interface]] for the cleartext side";
            self.refuse(&(end..end), message);
        }
    }

    fn groups(&mut self, groups: Vec<Spanned<file::Group>>, administered: bool) -> Vec<GroupRule> {
        let mut checked: Vec<GroupRule> = Vec::new();
        for group in groups {
            let whole = group.span();
            let rule = group.into_inner();
            let (group, span) = (rule.address.get_ref().0, rule.address.span());
            let overlaps =
                |other: &&GroupRule| other.group.contains(group.mapped()) || group.contains(other.group.mapped());
            if let Some(other) = checked.iter().find(overlaps) {
                let message =
                    format!("group {group} overlaps group {}; a packet has one rule: remove one", other.group);
                self.refuse(&span, message);
            }
            let ports = self.ports(&rule.ports);
            if ports.len() > MAX_PORTS {
                let message =
                    format!("{} ports; expected at most {MAX_PORTS}, or no `ports` for every port", ports.len());
                self.refuse(&span, message);
            }
            let sources = self.sources(&rule.sources, group.address());
            let protection = self.protection(&whole, &rule, administered);
            checked.push(GroupRule { group, ports, sources, protection, send: rule.send, receive: rule.receive });
        }
        checked
    }

    fn ports(&mut self, ports: &[Spanned<u16>]) -> Vec<u16> {
        let mut checked = Vec::new();
        for port in ports {
            if *port.get_ref() == 0 {
                self.refuse(&port.span(), "port 0; expected 1 to 65535, or no `ports` for every port");
            } else if checked.contains(port.get_ref()) {
                self.refuse(&port.span(), format!("port {} is listed twice; remove one", port.get_ref()));
            } else {
                checked.push(*port.get_ref());
            }
        }
        checked
    }

    fn sources(&mut self, sources: &[Spanned<Parsed<file::Address>>], group: IpAddr) -> Vec<IpAddr> {
        let mut checked = Vec::new();
        for source in sources {
            let address = source.get_ref().0.0;
            if address.is_multicast() || address.is_unspecified() {
                self.refuse(&source.span(), format!("source {address} is no unicast address of a sender"));
            } else if address.is_ipv4() != group.is_ipv4() {
                let message = format!("source {address} is of another family than group {group}; expected the same");
                self.refuse(&source.span(), message);
            } else if checked.contains(&address) {
                self.refuse(&source.span(), format!("source {address} is listed twice; remove one"));
            } else {
                checked.push(address);
            }
        }
        checked
    }

    fn protection(&mut self, whole: &Range<usize>, rule: &file::Group, administered: bool) -> Protection {
        if rule.protection == file::Protection::None {
            if let Some(gak) = rule.gak.first() {
                let message = "gak with protection = \"none\"; remove it, or set protection = \"sealed\"";
                self.refuse(&gak.span(), message);
            }
            if let Some(suite) = &rule.suite {
                let message = "suite with protection = \"none\"; remove it, or set protection = \"sealed\"";
                self.refuse(&suite.span(), message);
            }
            return Protection::None;
        }
        if rule.gak.is_empty() && !administered {
            let message = "a sealed group without gak; make one with `gemctl key generate gak --out FILE` and add \
                           gak = [{ epoch = 1, file = \"FILE\" }], or name the administrator that gives it out: kmg in \
                           [domain]";
            self.refuse(whole, message);
        }
        let mut gaks: Vec<(Epoch, Secret<32>)> = Vec::new();
        for gak in &rule.gak {
            let gak = gak.get_ref();
            let epoch = Epoch(*gak.epoch.get_ref());
            if gaks.iter().any(|(other, _)| *other == epoch) {
                self.refuse(&gak.epoch.span(), format!("epoch {epoch} is listed twice; give each gak its own epoch"));
            }
            if let Some(key) = self.key_file(&gak.file.span(), gak.file.get_ref(), keyfile::read_key) {
                if let Some((other, _)) = gaks.iter().find(|(_, other)| other.expose() == key.expose()) {
                    let message = format!("the same key as epoch {other}; make a new one for each epoch");
                    self.refuse(&gak.file.span(), message);
                }
                gaks.push((epoch, key));
            }
        }
        gaks.sort_by_key(|(epoch, _)| *epoch);
        let suite = match rule.suite.as_ref().map(|suite| *suite.get_ref()) {
            None | Some(file::Suite::Aes256Gcm) => Suite::Aes256Gcm,
            Some(file::Suite::ChaCha20Poly1305) => Suite::ChaCha20Poly1305,
        };
        Protection::Sealed { suite, gaks }
    }

    fn span(
        &mut self,
        key: &str,
        value: Option<Spanned<Parsed<Span>>>,
        default: Duration,
        allowed: &Range<Duration>,
    ) -> Duration {
        value.map_or(default, |value| self.interval(key, &value, allowed))
    }

    fn interval(&mut self, key: &str, value: &Spanned<Parsed<Span>>, allowed: &Range<Duration>) -> Duration {
        let duration = value.get_ref().0.0;
        if !allowed.contains(&duration) {
            let last = allowed.end - Duration::from_millis(1);
            let message = format!("{key} of {duration:?}; expected {:?} to {last:?}", allowed.start);
            self.refuse(&value.span(), message);
        }
        duration
    }

    fn key_file<T>(
        &mut self,
        span: &Range<usize>,
        file: &Path,
        read: impl FnOnce(&Path) -> Result<T, KeyFileError>,
    ) -> Option<T> {
        self.read_key_file(file, read).map_err(|error| self.refuse(span, error.to_string())).ok()
    }

    /// Reads a key file. `credential:NAME` is one that systemd hands over (LoadCredential=).
    fn read_key_file<T>(
        &self,
        file: &Path,
        read: impl FnOnce(&Path) -> Result<T, KeyFileError>,
    ) -> Result<T, KeyFileError> {
        if let Some(name) = file.to_str().and_then(|file| file.strip_prefix("credential:")) {
            return read(&keyfile::credential(name)?);
        }
        read(&self.source.path.parent().unwrap_or(Path::new("")).join(file))
    }
}

/// Whether routes to an address leave the host and the link (RFC 8966 has no use for others).
fn is_routable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_multicast() || link_local)
}

/// Whether an instance can live there: its name becomes a directory with sockets in it.
pub(super) fn check_place(run_dir: &Path, instance: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if instance.is_empty() || instance.len() > 32 || !instance.chars().all(plain) || instance.starts_with('.') {
        let expected = "expected 1 to 32 letters, digits, '-', '_' or '.', not starting with '.'";
        return Err(format!("instance \"{instance}\": {expected}"));
    }
    if !run_dir.is_absolute() || run_dir.as_os_str().as_encoded_bytes().iter().any(|byte| byte.is_ascii_control()) {
        return Err(format!("run_dir {run_dir:?}: expected an absolute path without control characters"));
    }
    if run_dir.join(instance).join("dataplane.sock").as_os_str().len() > SOCKET_PATH_LEN {
        return Err(format!("run_dir and instance make socket paths over {SOCKET_PATH_LEN} bytes; shorten them"));
    }
    Ok(())
}
