//! What happened, for operators: each event goes to the log, to the list of recent ones, and to those who follow.

use crate::interfaces::Interfaces;
use gemcast_engine::output::{Carried, Event, NodeName};
use gemcast_engine::view::Culprit;
use gemcast_proto::api;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Events that are kept; older ones are forgotten.
const RECENT_MAX: usize = 1024;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// As it should be.
    Info,
    /// An operator may want to look.
    Warning,
    /// An operator has to look.
    Error,
}

/// Something that happened, in words.
pub struct Entry {
    severity: Severity,
    name: &'static str,
    text: String,
    fields: BTreeMap<&'static str, String>,
    quiet: bool,
}

impl Entry {
    /// An event under a stable name.
    pub fn new(severity: Severity, name: &'static str, text: impl Into<String>) -> Self {
        Self { severity, name, text: text.into(), fields: BTreeMap::new(), quiet: false }
    }

    /// Adds what it is about.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.fields.insert(name, value.to_string());
        self
    }

    /// Adds whom it is about.
    fn about(self, who: &Culprit, interfaces: &Interfaces) -> Self {
        match who {
            Culprit::Neighbour(ifindex, address) => {
                self.with("interface", interfaces.name(*ifindex)).with("address", address.to_canonical())
            }
            Culprit::Node(node) => self.with("node", node),
        }
    }

    /// Leaves it out of the log, which has it already.
    pub fn quietly(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// An event of the engine's.
    pub fn of(event: &Event, interfaces: &Interfaces) -> Self {
        use Severity::{Error, Info, Warning};
        match event {
            Event::NeighbourUp { ifindex, address } => Self::new(Info, "neighbour_up", "neighbour up")
                .with("interface", interfaces.name(*ifindex))
                .with("address", address.to_canonical()),
            Event::NeighbourSuspect { ifindex, address, missed, of } => {
                Self::new(Warning, "neighbour_suspect", format!("neighbour suspect, missed {missed} of {of} Hellos"))
                    .with("interface", interfaces.name(*ifindex))
                    .with("address", address.to_canonical())
                    .with("missed", missed)
                    .with("of", of)
            }
            Event::NeighbourDead { ifindex, address, missed, moved, lost } => {
                let text = format!(
                    "neighbour dead, missed {missed} Hellos: {}; {}",
                    counted(moved, "moved"),
                    counted(lost, "lost")
                );
                Self::new(Warning, "neighbour_dead", text)
                    .with("interface", interfaces.name(*ifindex))
                    .with("address", address.to_canonical())
                    .with("missed", missed)
                    .with("groups_moved", moved.groups)
                    .with("gateways_moved", moved.nodes)
                    .with("routes_moved", moved.routes)
                    .with("groups_lost", lost.groups)
                    .with("gateways_lost", lost.nodes)
                    .with("routes_lost", lost.routes)
            }
            Event::NeighbourBack { ifindex, address, away } => {
                let text = match away {
                    Some(away) => format!("neighbour back after {}.{} s", away.as_secs(), away.subsec_millis() / 100),
                    None => "neighbour back, it was only suspect".into(),
                };
                Self::new(Info, "neighbour_back", text)
                    .with("interface", interfaces.name(*ifindex))
                    .with("address", address.to_canonical())
                    .with("dead_ms", away.unwrap_or_default().as_millis())
            }
            Event::NeighbourFlapping { ifindex, address, deaths, calm_after } => {
                let text =
                    format!("neighbour died {deaths} times: avoided until it is calm for {} s", calm_after.as_secs());
                Self::new(Warning, "neighbour_flapping", text)
                    .with("interface", interfaces.name(*ifindex))
                    .with("address", address.to_canonical())
                    .with("deaths", deaths)
            }
            Event::NeighbourCalm { ifindex, address } => {
                Self::new(Info, "neighbour_calm", "neighbour is calm, not avoided any more")
                    .with("interface", interfaces.name(*ifindex))
                    .with("address", address.to_canonical())
            }
            Event::NeighbourForgotten { ifindex, address, silent } => {
                let why = if *silent { "it did not return" } else { "its interface or address is gone" };
                Self::new(Info, "neighbour_forgotten", format!("neighbour forgotten: {why}"))
                    .with("interface", interfaces.name(*ifindex))
                    .with("address", address.to_canonical())
            }
            Event::NodesLost { nodes, reached } => {
                let still = match reached {
                    0 => "no other gateway is reached".to_owned(),
                    1 => "1 other is reached".to_owned(),
                    many => format!("{many} others are reached"),
                };
                let (name, text) = match nodes.len() {
                    1 => ("node_lost", format!("gateway lost: {}; {still}", names(nodes))),
                    many => (
                        "partition",
                        format!("partition: {many} gateways were lost together, {}; {still}", names(nodes)),
                    ),
                };
                Self::new(Error, name, text)
                    .with("nodes", ids(nodes))
                    .with("lost", nodes.len())
                    .with("reached", reached)
            }
            Event::NodesBack { nodes, away, missing } => {
                let rest = match missing.len() {
                    0 if nodes.len() == 1 => String::new(),
                    0 => ", nobody is missing any more".to_owned(),
                    _ => format!(", still missing: {}", names(missing)),
                };
                let verb = if nodes.len() == 1 { "is" } else { "are" };
                let text = format!("{} {verb} reached again after {} s{rest}", names(nodes), away.as_secs());
                let name = if missing.is_empty() { "partition_healed" } else { "nodes_back" };
                Self::new(Info, name, text)
                    .with("nodes", ids(nodes))
                    .with("away_ms", away.as_millis())
                    .with("missing", missing.len())
            }
            Event::StreamSilent { origin, group, reached } => {
                let gateway = if *reached { "its gateway is reached" } else { "its gateway is not reached either" };
                Self::new(Warning, "stream_silent", format!("nothing of a stream comes any more; {gateway}"))
                    .with("origin", origin)
                    .with("group", group)
            }
            Event::StreamBack { origin, group, away } => {
                Self::new(Info, "stream_back", format!("stream back after {} s", away.as_secs()))
                    .with("origin", origin)
                    .with("group", group)
            }
            Event::PeerWaiting { ifindex, address, tries, next } => {
                let text = format!("a unicast peer has not answered, next try in {} s", next.as_secs().max(1));
                Self::new(Warning, "peer_waiting", text)
                    .with("interface", interfaces.name(*ifindex))
                    .with("address", address)
                    .with("tries", tries)
                    .with("next_ms", next.as_millis())
            }
            Event::PeerReached { ifindex, address, tries } => Self::new(Info, "peer_reached", "unicast peer reached")
                .with("interface", interfaces.name(*ifindex))
                .with("address", address)
                .with("tries", tries),
            Event::MulticastLost { ifindex, address, ours } => {
                let which = if *ours { "ours does not arrive there" } else { "its own does not arrive here" };
                let text = format!("multicast of the link is lost: {which}; going on by unicast");
                Self::new(Warning, "multicast_lost", text)
                    .with("interface", interfaces.name(*ifindex))
                    .with("address", address)
            }
            Event::MulticastReturned { ifindex, address } => {
                Self::new(Info, "multicast_returned", "multicast of the link arrives again")
                    .with("interface", interfaces.name(*ifindex))
                    .with("address", address)
            }
            Event::IdentityConflict { ifindex, address, corrections } => {
                let text = "another gateway announces our identity: each needs a node key of its own";
                Self::new(Error, "identity_conflict", text)
                    .with("interface", interfaces.name(*ifindex))
                    .with("neighbour", address.to_canonical())
                    .with("corrections", corrections)
            }
            Event::SekMade { group, key_id } => {
                Self::new(Info, "key_made", "key made").with("group", group).with("key", key_id)
            }
            Event::SekLearnt { origin, group, key_id } => Self::new(Info, "key_learnt", "key learnt")
                .with("origin", origin)
                .with("group", group)
                .with("key", key_id),
            Event::Conflict { origin, kind, id } => {
                let text = "two objects of one name and version: the node's key is used twice";
                Self::new(Error, "conflict", text)
                    .with("origin", origin)
                    .with("kind", format_args!("{kind:?}"))
                    .with("id", id)
            }
            Event::KeyIdTaken { origin, key_id } => {
                let text = "a key announced under the id of another one; the first one stays";
                Self::new(Error, "key_id_taken", text).with("origin", origin).with("key", key_id)
            }
            Event::OwnObjectRefused { kind, id, what } => {
                Self::new(Error, "announcement_failed", format!("an announcement of ours was not made: {what}"))
                    .with("kind", format_args!("{kind:?}"))
                    .with("id", id)
            }
            Event::PackageWhole { group, epoch, starts, member, emergency } => {
                let text = if *member {
                    "a group key will be changed"
                } else {
                    "a group is changed to a key we were not given"
                };
                let severity = if *member { Info } else { Warning };
                Self::new(severity, "package_whole", text)
                    .with("group", group)
                    .with("epoch", epoch)
                    .with("starts_ms", starts.0)
                    .with("emergency", emergency)
            }
            Event::ShareNotOpened { group, epoch } => {
                let text =
                    "our share of a group key does not open: it was made for another X25519 key; have it made anew";
                Self::new(Error, "share_not_opened", text).with("group", group).with("epoch", epoch)
            }
            Event::Suspected { who } => Self::new(Warning, "peer_suspected", format!("{} is suspected", kind_of(who)))
                .about(who, interfaces)
                .with("show", "gemctl peer reputation"),
            Event::Banned { who, by_operator, lasts } => {
                let why = if *by_operator { "by an operator" } else { "for its faults" };
                let lasts = lasts.map_or("until it is unbanned".into(), |lasts| format!("for {} s", lasts.as_secs()));
                let text = match who {
                    Culprit::Neighbour(..) => format!("neighbour banned {why} {lasts}: it is not listened to"),
                    Culprit::Node(_) => format!("node banned {why} {lasts}: its keys count for nothing"),
                };
                Self::new(Error, "peer_banned", text).about(who, interfaces).with("by_operator", by_operator)
            }
            Event::Voted { voter, culprit, withdrawn, votes, members } => {
                let what = if *withdrawn { "a vote to ban a node was taken back" } else { "a vote to ban a node" };
                Self::new(Warning, "ban_vote", format!("{what}: {votes} of {members} members are for it"))
                    .with("voter", voter)
                    .with("node", culprit)
                    .with("withdrawn", withdrawn)
            }
            Event::Condemned { node, banned: true } => {
                let text = "more than half of the members voted to ban a node: its keys count for nothing";
                Self::new(Error, "node_condemned", text).with("node", node)
            }
            Event::Condemned { node, banned: false } => {
                Self::new(Info, "node_acquitted", "the members' ban of a node is over").with("node", node)
            }
            Event::Unbanned { who, by_operator } => {
                let why = if *by_operator { "an operator ended it" } else { "its time is over; on probation" };
                Self::new(Info, "peer_unbanned", format!("ban of a {} ended: {why}", kind_of(who)))
                    .about(who, interfaces)
                    .with("by_operator", by_operator)
            }
            Event::Revoked { node } => Self::new(Warning, "node_revoked", "a node was revoked").with("node", node),
            Event::SigningRefused { what } => {
                Self::new(Error, "signing_refused", format!("nothing is signed, hence nothing announced: {what}"))
            }
            Event::ClockAhead { origin, ahead } => {
                let text = format!(
                    "a gateway's key is refused: by our clock it was made {} s in the future, and 30 s are tolerated; \
                     synchronize both clocks (chrony, ntpd)",
                    ahead.as_secs()
                );
                Self::new(Error, "clock_ahead", text).with("origin", origin)
            }
            Event::ObjectsMissing { node } => {
                let text = "routes of a gateway arrive and its objects do not: a router between passes no GEM";
                Self::new(Warning, "objects_missing", text).with("node", node)
            }
            Event::ForwarderChanged { taken, left } => {
                let text = match (taken, left) {
                    (_, 0) => format!("this gateway forwards {taken} more of the LAN's groups"),
                    (0, _) => format!("another gateway forwards {left} of the LAN's groups; this one stands by"),
                    _ => format!("this gateway forwards {taken} more of the LAN's groups, and stands by for {left}"),
                };
                Self::new(Info, "forwarder_changed", text).with("taken", taken).with("left", left)
            }
            Event::ForwarderConflict { node } => {
                let text = "another gateway delivered on the LAN what this one delivers; one of the two stands by now";
                Self::new(Error, "forwarder_conflict", text).with("node", node)
            }
            Event::Refused { ifindex, source, what } => Self::new(Warning, "refused", format!("refused: {what}"))
                .with("interface", interfaces.name(*ifindex))
                .with("source", source.to_canonical()),
        }
    }
}

fn kind_of(who: &Culprit) -> &'static str {
    match who {
        Culprit::Neighbour(..) => "neighbour",
        Culprit::Node(_) => "node",
    }
}

/// "3 groups and 2 gateways moved", "nothing lost".
fn counted(carried: &Carried, what: &str) -> String {
    let counts = [(carried.groups, "group"), (carried.nodes, "gateway"), (carried.routes, "route")];
    let plural = |count| if count == 1 { "" } else { "s" };
    let named = counts.iter().filter(|(count, _)| *count > 0);
    let named: Vec<_> = named.map(|&(count, name)| format!("{count} {name}{}", plural(count))).collect();
    if named.is_empty() { format!("nothing {what}") } else { format!("{} {what}", named.join(", ")) }
}

/// Gateways of a loss that are named.
const NAMED_MAX: usize = 8;

/// "a, b and 3 more".
fn names(nodes: &[NodeName]) -> String {
    let name = |node: &NodeName| if node.name.is_empty() { node.id.to_string() } else { node.name.clone() };
    let named: Vec<_> = nodes.iter().take(NAMED_MAX).map(name).collect();
    match nodes.len().saturating_sub(NAMED_MAX) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn ids(nodes: &[NodeName]) -> String {
    nodes.iter().take(NAMED_MAX).map(|node| node.id.to_string()).collect::<Vec<_>>().join(" ")
}

/// The recent events.
#[derive(Default)]
pub struct Journal {
    recent: VecDeque<api::Event>,
    count: u64,
}

impl Journal {
    /// Takes in an event: writes it to the log, keeps it, and gives it back for those who follow.
    pub fn record(&mut self, entry: Entry) -> &api::Event {
        let Entry { severity, name, text, fields, quiet } = entry;
        let mut about = String::new();
        for (name, value) in &fields {
            write!(about, " {name}={value}").expect("a String grows");
        }
        match severity {
            _ if quiet => {}
            Severity::Info => tracing::info!(event = name, "{text}{about}"),
            Severity::Warning => tracing::warn!(event = name, "{text}{about}"),
            Severity::Error => tracing::error!(event = name, "{text}{about}"),
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.count += 1;
        self.recent.push_back(api::Event {
            number: self.count,
            at_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
            severity: match severity {
                Severity::Info => "info",
                Severity::Warning => "warning",
                Severity::Error => "error",
            }
            .into(),
            name: name.into(),
            text,
            fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        });
        self.recent.back().expect("pushed above")
    }

    /// The recent ones, the oldest first.
    pub fn recent(&self) -> api::Events {
        api::Events { events: self.recent.iter().cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_events_make_room_and_numbers_go_on() {
        let mut journal = Journal::default();
        for _ in 0..RECENT_MAX + 3 {
            journal.record(Entry::new(Severity::Info, "tick", "tick").with("a", 1));
        }
        let recent = journal.recent().events;
        assert_eq!((recent.len(), recent[0].number), (RECENT_MAX, 4));
        assert_eq!(recent[0].fields["a"], "1");
    }
}
