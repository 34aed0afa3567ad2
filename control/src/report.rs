//! What operators are told: the state of every part, as API messages.

use crate::bans::{Bans, Cause};
use crate::clock;
use crate::config::{Config, GroupRule, Protection};
use crate::interfaces::{Configured, Interfaces, State};
use crate::legs::Legs;
use crate::link::{self, DataPlaneLink};
use crate::mode::Health;
use crate::routes::{Destination, RouteTable, Standing};
use gemcast_engine::Engine;
use gemcast_engine::time::Instant as Mono;
use gemcast_engine::view::{
    Culprit, Election, Liveness, PeerState, PeerView, Reach, ReputationView, Role, RouteView, SyncState,
};
use gemcast_proto::api;
use gemcast_proto::id::{Group, NodeId};
use gemcast_proto::link::{FlowStats, InterfaceStats, ReasonCount};
use gemcast_proto::reason::Reason;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Bans that are told one by one.
const BANS_SHOWN: usize = 16;

/// Losses that are told one by one, and gateways of a loss that are named.
const LOST_SHOWN: usize = 8;

/// Everything a report draws on.
pub struct Report<'a> {
    /// The configuration in force.
    pub config: &'a Config,
    /// Where it was read from.
    pub config_path: &'a Path,
    /// The control plane.
    pub engine: &'a Engine,
    /// Configured interfaces.
    pub interfaces: &'a Interfaces,
    /// The kernel's routes.
    pub routes: &'a RouteTable,
    /// Connection to the data plane.
    pub link: &'a DataPlaneLink,
    /// Keys whose packets are dropped.
    pub bans: &'a Bans,
    /// Redundant uplinks.
    pub legs: &'a Legs,
    /// Trouble that the owner of the parts knows of.
    pub troubles: &'a [api::Problem],
    /// When the daemon started.
    pub started: Instant,
    /// Now.
    pub now: Instant,
    /// Now, on the engine's clock.
    pub mono: Mono,
}

impl Report<'_> {
    /// `gemctl status`.
    pub fn status(&self) -> api::Status {
        let problems = self.problems();
        let health = Health::of(&problems);
        let interfaces = self.interfaces();
        let nodes = self.engine.nodes();
        let neighbours = self.engine.neighbours();
        let peer = self.link.peer();
        let stats = self.link.stats();
        let sum = |count: fn(&api::Interface) -> u64| interfaces.iter().map(count).sum();
        api::Status {
            state: health.mode.name().into(),
            causes: health.causes,
            problems,
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.config.node.name.clone(),
            node_id: self.engine.node_id().to_string(),
            instance: self.config.node.instance.clone(),
            pid: std::process::id().into(),
            uptime_seconds: self.now.duration_since(self.started).as_secs(),
            config: self.config_path.display().to_string(),
            data_plane: Some(api::DataPlane {
                connected: self.link.is_up(),
                version: peer.map(|(version, _)| version.to_owned()).unwrap_or_default(),
                workers: stats.map_or(0, |(_, stats)| stats.workers.len() as u32),
                incarnation: peer.map(|(_, incarnation)| format!("{incarnation:016x}")).unwrap_or_default(),
                applied: self.link.is_applied(),
                stats_age_ms: stats.map(|(at, _)| self.now.duration_since(at).as_millis() as u64),
            }),
            totals: Some(api::Totals {
                interfaces: interfaces.len() as u32,
                interfaces_up: interfaces.iter().filter(|interface| interface.state == "up").count() as u32,
                groups: self.config.groups.len() as u32,
                nodes: nodes.len() as u32,
                nodes_reached: nodes.iter().filter(|node| matches!(node.reach, Reach::This | Reach::Reached)).count()
                    as u32,
                neighbours: neighbours.len() as u32,
                neighbours_up: neighbours.iter().filter(|neighbour| neighbour.up).count() as u32,
                keys: self.engine.keys().len() as u32,
                received: sum(|interface| interface.received),
                forwarded: sum(|interface| interface.forwarded),
                passed: sum(|interface| interface.passed_total),
                dropped: sum(|interface| interface.dropped_total),
            }),
            control: Some(api::Control { counters: self.counters() }),
        }
    }

    /// Everything that is not as it should be.
    pub fn problems(&self) -> Vec<api::Problem> {
        let mut problems = self.troubles.to_vec();
        if !self.link.is_up() {
            let why = self.link.trouble();
            let text = format!("the data plane is not connected{}{why}", if why.is_empty() { "" } else { ": " });
            let fix = format!(
                "start gemcast-dataplane --run-dir {} --instance {}",
                self.config.node.run_dir.display(),
                self.config.node.instance
            );
            problems.push(problem("dataplane_down", self.link.path().display(), text, fix));
        } else if !self.link.is_applied() {
            let text = "the data plane has not taken over the configuration yet";
            problems.push(problem("dataplane_behind", self.link.path().display(), text, "wait, or see its log"));
        }
        for text in self.link.problems() {
            problems.push(problem("dataplane_problem", "data plane", text, "see the log of gemcast-dataplane"));
        }
        for interface in self.interfaces.iter() {
            let name = &interface.config.name;
            match interface.state() {
                (State::Up, _) => {}
                (State::Missing, why) => problems.push(problem("interface_missing", name, why, interface.fix())),
                (State::Down, why) => problems.push(problem("interface_down", name, why, interface.fix())),
            }
            if self.interface_stats(name).is_some_and(|stats| stats.xdp_mode == "skb") {
                let text = "XDP runs in SKB mode, many times slower than in the driver";
                let fix = "use a driver with native XDP; `ethtool -i` names the one in use";
                problems.push(problem("xdp_skb", name, text, fix));
            }
        }
        for peer in self.peers().into_iter().filter(|peer| !peer.waits.is_empty()) {
            let subject = format!("{} on {}", peer.address, peer.interface);
            match peer.state.as_str() {
                // The first answer may take a moment.
                "waiting" if peer.tries < 2 => {}
                "own_address" => {
                    problems.push(problem("peer_own_address", subject, peer.waits, "remove it from `peers`"));
                }
                "no_address" => {
                    let fix = format!("give {} an address of its family, or remove it from `peers`", peer.interface);
                    problems.push(problem("peer_no_address", subject, peer.waits, fix));
                }
                _ => {
                    let fix = "start gemcastd there, with this gateway among its peers, and see that UDP passes";
                    problems.push(problem("peer_waiting", subject, peer.waits, fix));
                }
            }
        }
        for neighbour in self.engine.neighbours().into_iter().filter(|n| n.by_unicast) {
            if neighbour.address.is_unicast_link_local() {
                let subject = format!("{} on {}", neighbour.address, neighbour.interface);
                let text = "multicast of the link does not arrive; Babel goes on by unicast, and no stream passes";
                let fix = "see that switches between pass IPv6 multicast (MLD snooping, storm control)";
                problems.push(problem("multicast_lost", subject, text, fix));
            }
        }
        for (ifindex, since) in self.engine.deserted() {
            let text = format!("no neighbour is heard by it any more, for {} s", (self.mono - since).as_secs());
            let fix = "see the link, and gemcastd at its other end; gemctl neighbour list";
            problems.push(problem("uplink_deserted", self.interfaces.name(ifindex), text, fix));
        }
        problems.extend(self.losses());
        if let Some(conflict) = self.engine.identity_conflict(self.mono) {
            let (address, interface) = (conflict.address.to_canonical(), self.interfaces.name(conflict.ifindex));
            let text = format!(
                "another gateway announces our identity, by way of {address} on {interface}; corrected {} times",
                conflict.corrections
            );
            let fix = "give each gateway a node key of its own: gemctl key generate node";
            problems.push(problem("identity_conflict", self.engine.node_id(), text, fix));
        }
        if self.engine.is_condemned() {
            let text = "banned by the votes of more than half of the members: they ignore its keys";
            let fix = "find out why (`gemctl peer reputation` on the others), and have them unban it";
            problems.push(problem("node_condemned", self.engine.node_id(), text, fix));
        }
        let reputations = self.engine.reputations(clock::now()).into_iter();
        let banned = reputations.filter(|view| view.ban.is_some() || view.condemned);
        for peer in banned.map(|view| self.reputation(view)).take(BANS_SHOWN) {
            let left = peer.ban_left_ms.map_or("until it is unbanned".into(), |ms| format!("for {} s more", ms / 1000));
            let what = if peer.kind == "node" { "its keys count for nothing" } else { "it is not listened to" };
            let text = format!("{} banned {left}: {what}", peer.kind);
            let subject = if peer.kind == "node" { peer.peer } else { format!("{}%{}", peer.peer, peer.interface) };
            let fix = format!("see why: gemctl peer reputation; to trust it again: gemctl peer unban {subject}");
            problems.push(problem("peer_banned", subject, text, fix));
        }
        for interface in self.interfaces.iter().filter(|interface| interface.config.link.unauthenticated) {
            let text = "mac = false: anyone on the link can change routes";
            let fix = "remove it as soon as the routers there know RFC 8967";
            problems.push(problem("mac_off", &interface.config.name, text, fix));
        }
        if self.interfaces.left_out() > 0 {
            let text = format!("{} more interfaces match than a data plane can serve", self.interfaces.left_out());
            problems.push(problem("interfaces_full", "interfaces", text, "narrow the patterns of [[interface]]"));
        }
        if let Some((count, why)) = self.routes.trouble() {
            let text = format!("{count} not as it should be in the kernel's table: {why}");
            problems.push(problem("routes_refused", "routes", text, "gemctl route list"));
        }
        for name in self.legs.lost() {
            let text = "no copies of streams arrive by this uplink any more, only by another: no redundancy";
            problems.push(problem("leg_lost", name, text, "see to the link, or to the network behind it"));
        }
        for stats in self.link.stats().iter().flat_map(|(_, stats)| &stats.interfaces).filter(|stats| stats.invalid > 0)
        {
            let text = format!("the kernel refused {} ring descriptors: a defect of the data plane", stats.invalid);
            problems.push(problem("ring_defect", &stats.name, text, "restart gemcast-dataplane, and report it"));
        }
        for (key_id, until) in self.bans.of(Cause::Garbage).take(BANS_SHOWN) {
            let left = until.map_or(0, |until| until.saturating_duration_since(self.now).as_secs());
            let text = format!("banned for {left} s more: a member of its group sent garbage under it");
            let fix =
                "find who sends it (`gemctl events` names the source), and give the group a GAK without that member";
            problems.push(problem("source_banned", format_args!("key {key_id}"), text, fix));
        }
        // Looked through every second: not without a reason.
        let groups = if self.link.is_up() { self.engine.groups() } else { Vec::new() };
        for group in groups {
            if group.suite.is_some() && group.send && group.active_key.is_none() {
                let text = "no key to send with; packets of the group are dropped";
                problems.push(problem("no_seal_key", group.group, text, "see the log of gemcastd"));
            }
        }
        problems
    }

    /// Gateways that were reached and are not any more, those lost together in one problem.
    fn losses(&self) -> Vec<api::Problem> {
        let nodes = self.nodes();
        let lost = nodes.iter().filter_map(|node| Some((node, node.lost_ms?)));
        // The first of them tells of all.
        let first = lost.filter(|(node, _)| node.lost_with.iter().all(|other| node.name <= *other));
        let reached = nodes.iter().filter(|node| node.reach == "reached").count();
        let told = first.map(|(node, lost_ms)| {
            let together: Vec<&str> =
                [&node.name].into_iter().chain(&node.lost_with).take(LOST_SHOWN).map(String::as_str).collect();
            let count = 1 + node.lost_with.len();
            let (code, what) = if count == 1 { ("node_lost", "no route to it") } else { ("partition", "lost together") };
            let text = format!("{what} for {} s; {reached} other gateways are reached", lost_ms / 1000);
            let fix = "see the gateway and the links to it (gemctl neighbour list); one that is gone for good is forgotten in a day";
            problem(code, together.join(", "), text, fix)
        });
        told.take(LOST_SHOWN).collect()
    }

    /// `gemctl node list`.
    pub fn nodes(&self) -> Vec<api::Node> {
        let nodes = self.engine.nodes();
        let names: BTreeMap<NodeId, String> = nodes.iter().map(|node| (node.id, node.name.clone())).collect();
        let node = |node: gemcast_engine::view::NodeView| api::Node {
            reach: node.reach.name().into(),
            lost_ms: match node.reach {
                Reach::Lost { since, .. } => Some((self.mono - since).as_millis() as u64),
                _ => None,
            },
            lost_with: match &node.reach {
                Reach::Lost { with, .. } => with.iter().filter_map(|id| names.get(id).cloned()).collect(),
                _ => Vec::new(),
            },
            id: node.id.to_string(),
            name: node.name,
            this: node.is_self,
            signing_key: hex(&node.signing_key),
            agreement_key: hex(&node.agreement_key),
            version: node.version,
            keys: node.seks,
        };
        nodes.into_iter().map(node).collect()
    }

    /// `gemctl group list`.
    pub fn groups(&self) -> Vec<api::Group> {
        let views: BTreeMap<_, _> = self.engine.groups().into_iter().map(|view| (view.group, view)).collect();
        let mut streams = self.streams();
        let flows = self.link.stats().map_or(&[][..], |(_, stats)| &stats.flows);
        let named = |flow: &FlowStats| Some((link::group(&flow.group, flow.prefix_len)?, flow.clone()));
        let mut flows: BTreeMap<_, _> = flows.iter().filter_map(named).collect();
        let mut report = |rule: &GroupRule| {
            let view = views.get(&rule.group);
            let flow = flows.remove(&rule.group).unwrap_or_default();
            let next = view.and_then(|view| view.next_key);
            let election = self.engine.election(&rule.group);
            let role = election.map(|election| election.role.name().to_owned()).unwrap_or_default();
            let (forwarder, forwarder_why) = election.map(|election| self.forwarder(&election)).unwrap_or_default();
            let (protection, suite) = match &rule.protection {
                Protection::None => ("none", String::new()),
                Protection::Sealed { suite, .. } => ("sealed", suite.name().to_owned()),
            };
            // Not as configured: packages bring epochs, and end others.
            let epochs = view.map(|view| view.epochs.iter().map(|epoch| u32::from(epoch.0)).collect());
            api::Group {
                group: rule.group.to_string(),
                protection: protection.into(),
                suite,
                epochs: epochs.unwrap_or_default(),
                ports: rule.ports.iter().map(|&port| port.into()).collect(),
                sources: rule.sources.iter().map(ToString::to_string).collect(),
                send: rule.send,
                receive: rule.receive,
                active_key: view.and_then(|view| view.active_key).map(|key| key.to_string()),
                next_key: next.map(|(key, _)| key.to_string()),
                next_key_at_ms: next.map(|(_, at)| at.0),
                source_nodes: view.map_or(0, |view| view.sources),
                sealed: flow.sealed,
                sealed_bytes: flow.sealed_bytes,
                opened: flow.opened,
                opened_bytes: flow.opened_bytes,
                relayed: flow.relayed,
                relayed_bytes: flow.relayed_bytes,
                streams: streams.remove(&rule.group).unwrap_or_default(),
                role,
                forwarder,
                forwarder_why,
            }
        };
        self.config.groups.iter().map(&mut report).collect()
    }

    /// What is opened, by group.
    fn streams(&self) -> BTreeMap<Group, Vec<api::Stream>> {
        let names: BTreeMap<NodeId, String> =
            self.engine.nodes().into_iter().map(|node| (node.id, node.name)).collect();
        let mut streams: BTreeMap<Group, Vec<api::Stream>> = BTreeMap::new();
        for stream in self.engine.streams() {
            streams.entry(stream.group).or_default().push(api::Stream {
                origin: stream.origin.to_string(),
                origin_name: names.get(&stream.origin).cloned().unwrap_or_default(),
                silent: stream.silent,
                last_ms: (self.mono - stream.last_at).as_millis() as u64,
            });
        }
        streams
    }

    /// Who forwards a group on the LAN, and why.
    fn forwarder(&self, election: &Election) -> (String, String) {
        let Election { role, candidates, priority, equals } = *election;
        let node = match role {
            Role::Listening if candidates == 0 => return (String::new(), "listens for other gateways first".into()),
            Role::Listening => return (String::new(), "waits for the gateway before to stop".into()),
            Role::Forwarder => self.engine.node_id(),
            Role::Standby(node) => node,
        };
        let named = self.engine.nodes().into_iter().find(|known| known.id == node).map(|known| known.name);
        let why = match (candidates, equals) {
            (1, _) => "the only one ready on the LAN".into(),
            (_, 1) => format!("the highest priority, {priority}, of {candidates} gateways"),
            _ => format!("its share among {equals} gateways of priority {priority}"),
        };
        (named.unwrap_or_else(|| node.to_string()), why)
    }

    /// `gemctl key list`.
    pub fn keys(&self) -> Vec<api::Key> {
        let names: BTreeMap<NodeId, String> =
            self.engine.nodes().into_iter().map(|node| (node.id, node.name)).collect();
        let key = |key: gemcast_engine::view::KeyView| api::Key {
            key_id: key.key_id.to_string(),
            origin: key.origin.to_string(),
            origin_name: names.get(&key.origin).cloned().unwrap_or_default(),
            group: key.group.to_string(),
            epoch: key.epoch.0.into(),
            suite: key.suite.map(|suite| suite.name().to_owned()).unwrap_or_default(),
            state: key.state.name().into(),
            not_before_ms: key.not_before.0,
            not_after_ms: key.not_after.0,
            packets: key.packets,
        };
        self.engine.keys().into_iter().map(key).collect()
    }

    /// `gemctl iface list`.
    pub fn interfaces(&self) -> Vec<api::Interface> {
        self.interfaces.iter().map(|interface| self.interface(interface)).collect()
    }

    fn interface(&self, interface: &Configured) -> api::Interface {
        let name = &interface.config.name;
        let (state, reason) = interface.state();
        let (mut state, mut reason) = (state.name(), reason.to_owned());
        let stats = self.interface_stats(name);
        let unserved = self.link.is_applied() && self.link.stats().is_some() && !stats.is_some_and(|stats| stats.up);
        if state == "up" && unserved {
            (state, reason) = ("failed", "the data plane does not serve it; see its log".to_owned());
        }
        let stats = stats.cloned().unwrap_or_default();
        let (passed, dropped) = by_outcome(&stats.reasons);
        let link = interface.link.clone().unwrap_or_default();
        api::Interface {
            name: name.clone(),
            role: interface.config.role.name().into(),
            state: state.into(),
            reason,
            ifindex: link.ifindex,
            mtu: link.mtu,
            babel: interface.config.babel,
            link_local: link.link_local.first().map(ToString::to_string).unwrap_or_default(),
            ipv4: link.ipv4.first().map(ToString::to_string).unwrap_or_default(),
            xdp_mode: stats.xdp_mode,
            bind_mode: stats.bind_mode,
            queues: stats.queues,
            mac: stats.mac,
            received: stats.received,
            redirected: stats.redirected,
            forwarded: stats.forwarded,
            held: stats.held,
            passed_total: passed.values().sum(),
            dropped_total: dropped.values().sum(),
            passed,
            dropped,
            opened: stats.opened,
            copies: stats.copies,
            sent: stats.sent,
            sent_bytes: stats.sent_bytes,
            unsent: stats.unsent.into_iter().map(|count| (count.reason, count.frames)).collect(),
        }
    }

    fn interface_stats(&self, name: &str) -> Option<&InterfaceStats> {
        self.link.stats()?.1.interfaces.iter().find(|stats| stats.name == name)
    }

    /// `gemctl route list`.
    pub fn routes(&self) -> Vec<api::Route> {
        let names: BTreeMap<NodeId, String> =
            self.engine.nodes().into_iter().map(|node| (node.id, node.name)).collect();
        let route = |route: RouteView| {
            let destination = Destination { prefix: route.prefix, source: route.source };
            let (kernel, reason) = match self.routes.standing(&destination) {
                Standing::Installed if route.selected => ("installed", ""),
                Standing::Refused(why) if route.selected => ("refused", why),
                _ => ("", ""),
            };
            let (interface, neighbour) = match route.neighbour {
                Some((ifindex, address)) => {
                    (self.interfaces.name(ifindex).to_owned(), address.to_canonical().to_string())
                }
                None => Default::default(),
            };
            api::Route {
                prefix: route.prefix.to_string(),
                source: route.source.map(|source| source.to_string()).unwrap_or_default(),
                router_id: route.router_id.to_string(),
                router_name: names.get(&route.router_id).cloned().unwrap_or_default(),
                own: route.neighbour.is_none(),
                interface,
                neighbour,
                next_hop: route.next_hop.map(|next_hop| next_hop.to_string()).unwrap_or_default(),
                seqno: route.seqno.into(),
                refmetric: route.refmetric.into(),
                metric: route.metric.into(),
                selected: route.selected,
                feasible: route.feasible,
                kernel: kernel.into(),
                reason: reason.into(),
            }
        };
        self.engine.routes().into_iter().map(route).collect()
    }

    /// The configured unicast peers.
    pub fn peers(&self) -> Vec<api::Peer> {
        let peer = |peer: PeerView| {
            let (address, interface) = (peer.address, &peer.interface);
            let (state, tries, next_try_ms, waits) = match peer.state {
                PeerState::Reached => ("reached", 0, 0, String::new()),
                PeerState::Waiting { tries, next_at } => {
                    let next = (next_at - self.mono).as_millis() as u64;
                    let tried = if tries == 1 { "1 try".to_owned() } else { format!("{tries} tries") };
                    let text = format!(
                        "peer {address} on {interface} has not answered: {tried}, next in {} s",
                        next.div_ceil(1000)
                    );
                    ("waiting", tries, next, text)
                }
                PeerState::OwnAddress => {
                    ("own_address", 0, 0, format!("peer {address} on {interface} is this gateway itself"))
                }
                PeerState::NoAddress => {
                    let family = if address.is_ipv4() { "IPv4" } else { "routable IPv6" };
                    let text = format!("peer {address} on {interface} cannot be tried: no {family} address there");
                    ("no_address", 0, 0, text)
                }
            };
            let (interface, address) = (interface.clone(), address.to_string());
            api::Peer { interface, address, state: state.into(), tries, next_try_ms, waits }
        };
        self.engine.peers().into_iter().map(peer).collect()
    }

    /// `gemctl neighbour list`.
    pub fn neighbours(&self) -> Vec<api::Neighbour> {
        let ours = self.engine.objects();
        let neighbour = |neighbour: gemcast_engine::view::NeighbourView| {
            let compared = match neighbour.sync {
                SyncState::Unknown => api::Neighbour { sync: "unknown".into(), ..Default::default() },
                SyncState::Equal => api::Neighbour { sync: "equal".into(), ..Default::default() },
                SyncState::Differs { theirs, queued, tries, next_at } => api::Neighbour {
                    sync: "differs".into(),
                    objects_theirs: theirs,
                    objects_queued: queued,
                    objects_behind: queued.max(ours.saturating_sub(theirs)),
                    objects_ahead: theirs.saturating_sub(ours),
                    sync_tries: tries,
                    sync_next_ms: next_at.map(|at| (at - self.mono).as_millis() as u64),
                    ..Default::default()
                },
            };
            api::Neighbour {
                interface: neighbour.interface,
                // An IPv4 peer as people write it.
                address: neighbour.address.to_canonical().to_string(),
                up: neighbour.up,
                hello_history: format!("{:04x}", neighbour.hello_history),
                unicast_history: format!("{:04x}", neighbour.unicast_history),
                peer: neighbour.peer,
                by_unicast: neighbour.by_unicast,
                last_heard_ms: (self.mono - neighbour.last_heard).as_millis() as u64,
                rxcost: neighbour.rxcost.into(),
                txcost: neighbour.txcost.into(),
                cost: neighbour.cost.into(),
                rtt_us: neighbour.rtt.map(|rtt| rtt.as_micros() as u64),
                state: neighbour.state.name().into(),
                missed: neighbour.missed,
                dead_threshold: self.config.detection.dead_threshold.into(),
                dead_ms: match neighbour.state {
                    Liveness::Dead(since) => Some((self.mono - since).as_millis() as u64),
                    _ => None,
                },
                lateness_us: neighbour.lateness.as_micros() as u64,
                flapping: neighbour.flapping,
                deaths: neighbour.deaths,
                ..compared
            }
        };
        self.engine.neighbours().into_iter().map(neighbour).collect()
    }

    /// `gemctl peer reputation`.
    pub fn reputations(&self) -> api::Reputations {
        let reputations = self.engine.reputations(clock::now());
        let quorum = self.engine.quorum();
        api::Reputations {
            peers: reputations.into_iter().map(|view| self.reputation(view)).collect(),
            members: quorum.members,
            members_reached: quorum.reached,
            quorum: quorum.is_there(),
        }
    }

    fn reputation(&self, view: ReputationView) -> api::Reputation {
        let faults = view.faults;
        let (state, banned_by) = match view.ban {
            Some(ban) => ("banned", if ban.by_operator { "operator" } else { "faults" }),
            None if view.condemned => ("banned", "votes"),
            None if view.suspected => ("suspected", ""),
            None => ("trusted", ""),
        };
        let (kind, peer, interface, name) = match view.who {
            Culprit::Neighbour(_, address) => {
                ("neighbour", address.to_canonical().to_string(), view.name, String::new())
            }
            Culprit::Node(node) => ("node", node.to_string(), String::new(), view.name),
        };
        let until = view.ban.and_then(|ban| ban.until);
        api::Reputation {
            kind: kind.into(),
            peer,
            interface,
            name,
            score: view.score.into(),
            state: state.into(),
            banned_by: banned_by.into(),
            ban_left_ms: until.map(|until| (until - self.mono).as_millis() as u64),
            bans: view.bans,
            malformed: faults.malformed,
            forged: faults.forged,
            excess: faults.excess,
            equivocations: faults.equivocations,
            unproven: faults.unproven,
            ignored: faults.ignored,
            votes: view.votes,
        }
    }

    /// What the control plane counted, under stable names.
    fn counters(&self) -> BTreeMap<String, u64> {
        let (counters, routes) = (&self.engine.counters, self.routes.counts);
        let named = [
            ("packets_sent", counters.packets_sent),
            ("bytes_sent", counters.bytes_sent),
            ("packets_received", counters.packets_received),
            ("refused_malformed", counters.refused_malformed),
            ("refused_mac", counters.refused_mac),
            ("refused_replay", counters.refused_replay),
            ("refused_tlv", counters.refused_tlv),
            ("refused_banned", counters.refused_banned),
            ("refused_object", counters.refused_object),
            ("refused_quota", counters.refused_quota),
            ("objects_evicted", counters.objects_evicted),
            ("refused_revoked", counters.refused_revoked),
            ("challenges_sent", counters.challenges_sent),
            ("objects_accepted", counters.objects_accepted),
            ("objects_repeated", counters.objects_repeated),
            ("objects_sent", counters.objects_sent),
            ("objects_unsigned", counters.unsigned),
            ("conflicts", counters.conflicts),
            ("seks_made", counters.seks_made),
            ("seks_installed", counters.seks_installed),
            ("unwrap_failed", counters.unwrap_failed),
            ("refused_checks", counters.refused_checks),
            ("shares_not_opened", counters.shares_not_opened),
            ("refused_routes", counters.refused_routes),
            ("refused_requests", counters.refused_requests),
            ("refused_acks", counters.refused_acks),
            ("messages_dropped", counters.messages_dropped),
            ("delayed_corrections", counters.delayed_corrections),
            ("unfeasible_updates", counters.unfeasible_updates),
            ("seqno_requests_sent", counters.seqno_requests_sent),
            ("kernel_routes", self.routes.installed() as u64),
            ("kernel_route_changes", routes.changes),
            ("kernel_routes_refused", routes.refused),
            ("kernel_routes_restored", routes.restored),
        ];
        named.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
    }
}

/// A problem for the list.
pub fn problem(code: &str, subject: impl ToString, text: impl Into<String>, fix: impl Into<String>) -> api::Problem {
    api::Problem { code: code.into(), subject: subject.to_string(), text: text.into(), fix: fix.into() }
}

/// Frames passed to the kernel and frames dropped, by reason. A reason this version does not know counts as a drop.
fn by_outcome(reasons: &[ReasonCount]) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let is_pass = |name: &str| Reason::ALL.iter().any(|reason| reason.name() == name && !reason.is_drop());
    let named = |count: &ReasonCount| (count.reason.clone(), count.frames);
    let passed = reasons.iter().filter(|count| is_pass(&count.reason)).map(named).collect();
    let dropped = reasons.iter().filter(|count| !is_pass(&count.reason)).map(named).collect();
    (passed, dropped)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
