//! What follows from reputations and from an operator's word: who is not listened to, and whose keys count for nothing.
//!
//! A banned *neighbour* is as if it were not there: what it sends is dropped before it is looked at, its routes are gone. A
//! banned *node* is out of the groups: its keys leave the maps, and packets under them are dropped. Its objects stay in the
//! table and are passed on, so that everyone's tables stay equal whoever bans whom, and a ban that ends leaves nothing to
//! be fetched.

use crate::Engine;
use crate::input::Ifindex;
use crate::object::Refusal;
use crate::output::{BanCause, Event, Output};
use crate::reputation::{Change, Fault, Reputation, Reputations};
use crate::sync::NeighbourKey;
use crate::time::{Instant, Now};
use crate::timer::Timer;
use crate::view::{Culprit, Quorum, ReputationView};
use core::net::Ipv6Addr;
use core::time::Duration;
use gemcast_proto::id::{KeyId, NodeId};
use gemcast_proto::wire::gem::{Error, Object, ObjectHeader, ObjectKind};
use std::collections::{BTreeMap, BTreeSet};

/// Keys of banned nodes whose packets are dropped by their id; packets under others find no key.
const MAX_KEYS: usize = 4096;

/// Who is banned, and what is held against whom.
#[derive(Default)]
pub(crate) struct Bans {
    pub(crate) neighbours: Reputations<NeighbourKey>,
    pub(crate) nodes: Reputations<NodeId>,
    /// Of the nodes banned here, those that are to be banned everywhere.
    pub(crate) voted: BTreeSet<NodeId>,
    /// Nodes that the members voted against; we may be among them.
    pub(crate) condemned: BTreeSet<NodeId>,
    /// Nodes whose bans are carried out.
    pub(crate) in_force: BTreeSet<NodeId>,
    /// Their keys.
    keys: BTreeMap<KeyId, NodeId>,
}

/// Why a ban is not made, or not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BanError {
    /// Of this gateway.
    #[error("that is this gateway itself; name another node or neighbour")]
    Oneself,
    /// Nothing to end.
    #[error("not banned; `gemctl peer reputation` shows who is")]
    NotBanned,
    /// The members' ban.
    #[error("banned by the votes of more than half of the members; it ends when enough of them take theirs back")]
    Condemned,
    /// Not enough members are reached.
    #[error(
        "no quorum: {} of {} members are reached, more than half have to be; ban it here only (without --vote), or wait \
         until the network is whole", .0.reached, .0.members
    )]
    NoQuorum(Quorum),
    /// No room.
    #[error("too many are banned already; end a ban with `gemctl peer unban`")]
    TooMany,
}

impl Engine {
    /// Holds a fault against a neighbour.
    pub(crate) fn blame(&mut self, now: Now, key: NeighbourKey, fault: Fault) {
        let change = self.bans.neighbours.fault(now.mono, key, fault);
        let who = Culprit::Neighbour(key.0, key.1);
        self.tell_change(now, who, change);
        if let Some(Change::Banned(_)) = change {
            self.neighbour_gone(now, key);
        }
    }

    /// The same for what anyone can send in its name: strangers are not worth an entry.
    pub(crate) fn blame_known(&mut self, now: Now, key: NeighbourKey, fault: Fault) {
        if self.neighbours.contains_key(&key) {
            self.blame(now, key, fault);
        }
    }

    /// An object was refused. A gateway passes on only what it verified, so that a wrong signature is its own fault; what
    /// is behind a right signature is not for it to judge.
    pub(crate) fn blame_for_object(&mut self, now: Now, key: NeighbourKey, refusal: Refusal, body: &[u8]) {
        let header = Object::parse(body).map(|object| object.header);
        match (refusal, header) {
            (Refusal::Signature, Ok(header)) => {
                self.blame(now, key, Fault::Forged);
                let node = header.name.origin;
                if self.objects.node(node).is_some() {
                    self.bans.nodes.fault(now.mono, node, Fault::Unproven);
                }
            }
            (Refusal::Origin, _) => self.blame(now, key, Fault::Forged),
            // A flag that a newer version gave a meaning is no nonsense.
            (Refusal::Payload(_), Err(error)) if !matches!(error, Error::Flags(_)) => {
                self.blame(now, key, Fault::Malformed);
            }
            // An older version does not look at the characters.
            (Refusal::Payload(error), Ok(header))
                if header.name.kind == ObjectKind::NODE && error != Error::NameCharacters =>
            {
                self.blame(now, key, Fault::Malformed);
            }
            _ => {}
        }
    }

    /// A node signed two objects under one name and version. Our own contradictions are told in another way.
    pub(crate) fn blame_contradiction(&mut self, now: Now, header: &ObjectHeader) {
        let node = header.name.origin;
        if node == self.id {
            return;
        }
        let change = self.bans.nodes.contradicts(now.mono, node, header.name, header.version);
        self.tell_change(now, Culprit::Node(node), change);
        if change.is_some() {
            self.tend_votes(now);
            self.review_bans(now);
        }
    }

    /// An operator bans somebody: until then, or until an operator ends it.
    pub fn ban(&mut self, now: Now, who: Culprit, lasts: Option<Duration>) -> Result<(), BanError> {
        let until = lasts.map(|lasts| now.mono + lasts);
        let banned = match who {
            Culprit::Neighbour(ifindex, address) => {
                let ours = self.interfaces.get(&ifindex).is_some_and(|interface| interface.info.owns(address));
                if ours {
                    return Err(BanError::Oneself);
                }
                self.bans.neighbours.ban(now.mono, (ifindex, address), until)
            }
            Culprit::Node(node) if node == self.id => return Err(BanError::Oneself),
            Culprit::Node(node) => self.bans.nodes.ban(now.mono, node, until),
        };
        if !banned {
            return Err(BanError::TooMany);
        }
        self.event(Event::Banned { who, by_operator: true, lasts });
        self.tend_votes(now);
        if let Culprit::Neighbour(ifindex, address) = who {
            self.neighbour_gone(now, (ifindex, address));
        }
        self.review_bans(now);
        Ok(())
    }

    /// An operator ends somebody's ban. All is forgiven.
    pub fn unban(&mut self, now: Now, who: Culprit) -> Result<(), BanError> {
        let ended = match who {
            Culprit::Neighbour(ifindex, address) => self.bans.neighbours.forgive(&(ifindex, address)),
            Culprit::Node(node) => self.bans.nodes.forgive(&node),
        };
        if !ended {
            let condemned = matches!(who, Culprit::Node(node) if self.bans.condemned.contains(&node));
            return Err(if condemned { BanError::Condemned } else { BanError::NotBanned });
        }
        self.event(Event::Unbanned { who, by_operator: true });
        self.tend_votes(now);
        self.review_bans(now);
        Ok(())
    }

    /// Time passed: bans end.
    pub(crate) fn age_bans(&mut self, now: Now) {
        for (ifindex, address) in self.bans.neighbours.age(now.mono) {
            self.event(Event::Unbanned { who: Culprit::Neighbour(ifindex, address), by_operator: false });
        }
        for node in self.bans.nodes.age(now.mono) {
            self.event(Event::Unbanned { who: Culprit::Node(node), by_operator: false });
        }
        self.tend_votes(now);
        self.review_bans(now);
    }

    /// Carries out the bans of nodes that are new, and takes back those that are over.
    pub(crate) fn review_bans(&mut self, now: Now) {
        let condemned = self.condemned(now.wall);
        let before = core::mem::replace(&mut self.bans.condemned, condemned.clone());
        for &node in condemned.symmetric_difference(&before) {
            self.event(Event::Condemned { node, banned: condemned.contains(&node) });
        }
        let local = self.bans.nodes.banned().map(|(node, _)| node);
        // What is ours goes on: whether the others listen to it is for them to say.
        let wanted: BTreeSet<_> = local.chain(condemned).filter(|node| *node != self.id).collect();
        let before = core::mem::replace(&mut self.bans.in_force, wanted.clone());
        let new: BTreeSet<_> = wanted.difference(&before).copied().collect();
        if !new.is_empty() {
            let keys = self
                .objects
                .iter()
                .map(|stored| stored.header.name)
                .filter(|name| name.kind == ObjectKind::SEK && new.contains(&name.origin));
            let keys: Vec<_> =
                keys.filter_map(|name| Some((name.origin, KeyId(u32::try_from(name.id).ok()?)))).collect();
            for (node, key_id) in keys {
                self.ban_key(node, key_id);
                self.drop_key(now, node, key_id);
            }
        }
        let over: Vec<_> = before.difference(&wanted).copied().collect();
        if !over.is_empty() {
            let keys: Vec<_> = self.bans.keys.extract_if(.., |_, node| over.contains(node)).collect();
            let lifted = |(key_id, _)| Output::Ban { key_id, cause: BanCause::Node, banned: false };
            self.outputs.extend(keys.into_iter().map(lifted));
            self.learn_all(now);
        }
        self.await_bans(now.mono);
    }

    /// Has the data plane drop packets under a key of a banned node, unless the id is that of somebody else's key.
    pub(crate) fn ban_key(&mut self, node: NodeId, key_id: KeyId) {
        let whose = self.origin_of(key_id);
        let room = self.bans.keys.len() < MAX_KEYS;
        let anothers = whose.is_some_and(|whose| whose != node) || self.is_contested(key_id, node);
        if self.is_banned(node) && room && !anothers {
            self.bans.keys.entry(key_id).or_insert_with(|| {
                self.outputs.push_back(Output::Ban { key_id, cause: BanCause::Node, banned: true });
                node
            });
        }
    }

    /// An id that a banned node took is that of a key which counts.
    pub(crate) fn clear_key(&mut self, key_id: KeyId) {
        if self.bans.keys.remove(&key_id).is_some() {
            self.outputs.push_back(Output::Ban { key_id, cause: BanCause::Node, banned: false });
        }
    }

    /// Whether a node is banned, and its keys count for nothing.
    pub fn is_banned(&self, node: NodeId) -> bool {
        self.bans.in_force.contains(&node)
    }

    fn tell_change(&mut self, now: Now, who: Culprit, change: Option<Change>) {
        match change {
            Some(Change::Suspected) => self.alarm(now, Event::Suspected { who }),
            Some(Change::Banned(lasts)) => self.event(Event::Banned { who, by_operator: false, lasts: Some(lasts) }),
            None => return,
        }
        self.await_bans(now.mono);
    }

    fn await_bans(&mut self, now: Instant) {
        let next = [self.bans.neighbours.next_deadline(), self.bans.nodes.next_deadline()];
        if let Some(at) = next.into_iter().flatten().min() {
            self.timers.set_by(Timer::Bans, at.max(now + Duration::from_micros(1)));
        }
    }

    /// Whether more than half of the members voted to ban this gateway.
    pub fn is_condemned(&self) -> bool {
        self.bans.condemned.contains(&self.id)
    }

    /// Neighbours and nodes, and how far each is trusted.
    pub fn reputations(&self, now: Now) -> Vec<ReputationView> {
        let (now, votes) = (now.mono, self.votes(now.wall));
        let view = |who: Culprit, name: String, reputation: Option<&Reputation>| {
            let clean = Reputation::default();
            let reputation = reputation.unwrap_or(&clean);
            ReputationView {
                who,
                name,
                score: reputation.score(now),
                suspected: reputation.is_suspected(),
                ban: reputation.ban(),
                bans: reputation.bans(),
                votes: 0,
                condemned: false,
                faults: reputation.faults(),
            }
        };
        let noted = self.bans.neighbours.iter().map(|(key, _)| *key);
        let neighbours: BTreeSet<NeighbourKey> = self.neighbours.keys().copied().chain(noted).collect();
        let neighbours = neighbours.into_iter().map(|key: (Ifindex, Ipv6Addr)| {
            let name = self.interfaces.get(&key.0).map(|interface| interface.info.name.clone());
            view(Culprit::Neighbour(key.0, key.1), name.unwrap_or_default(), self.bans.neighbours.get(&key))
        });
        let names: BTreeMap<_, _> = self.nodes().into_iter().map(|node| (node.id, node.name)).collect();
        let noted = self.bans.nodes.iter().map(|(node, _)| *node).chain(votes.keys().copied());
        let nodes: BTreeSet<NodeId> = names.keys().copied().chain(noted).filter(|node| *node != self.id).collect();
        let nodes = nodes.into_iter().map(|node| {
            let name = names.get(&node).cloned().unwrap_or_default();
            ReputationView {
                votes: votes.get(&node).map_or(0, |voters| u32::try_from(voters.len()).unwrap_or(u32::MAX)),
                condemned: self.bans.condemned.contains(&node),
                ..view(Culprit::Node(node), name, self.bans.nodes.get(&node))
            }
        });
        neighbours.chain(nodes).collect()
    }
}
