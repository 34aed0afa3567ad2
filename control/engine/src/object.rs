//! The table of GEM objects: everything any gateway announced, verified, highest version of each name.
//!
//! Nothing enters without its origin's signature. Two tables with the same objects have the same digest, whatever the
//! order they came in; a digest of any subtree finds the differences of two tables in a few exchanges.

mod room;

pub(crate) use self::room::Standing;
use self::room::{MAX_OBJECTS_PER_ORIGIN, Room, Weight};
use crate::kmg;
use crate::rate::{Bucket, Limit};
use crate::time::{Instant, UnixMillis};
use core::time::Duration;
use gemcast_proto::id::NodeId;
use gemcast_proto::wire::gem::kmg::FOREVER;
use gemcast_proto::wire::gem::{
    self, Digest, Entry, NodePayload, Object, ObjectHeader, ObjectKind, ObjectName, Range, SIGNATURE_LABEL,
};
use ring::{digest, signature};
use std::collections::{BTreeMap, BTreeSet};

/// Difference between two gateways' wall clocks that is tolerated.
pub(crate) const SKEW: Duration = Duration::from_secs(30);
/// Longest validity, so that a table filled on purpose is free again some day. A SEK of the longest life has 21 days. What
/// lasts for ever does so only from administrators that this gateway was told of.
const MAX_VALIDITY: Duration = Duration::from_secs(22 * 24 * 3600);
/// Objects that run out at a time; the others wait for the next one, so that nothing else has to wait for them.
const EXPIRE_BATCH: usize = 1024;
/// Withdrawals that are kept for nodes whose NODE ran out.
const MAX_BURIED: usize = 16_384;
/// Changes of one origin's objects that are taken in: all that it may have at once, and then enough for a SEK of each of
/// 10,000 groups every other minute.
const CHANGES: Limit = Limit { interval: Duration::from_millis(10), burst: MAX_OBJECTS_PER_ORIGIN as u32 };

/// A verified object.
pub(crate) struct Stored {
    pub(crate) header: ObjectHeader,
    /// The whole TLV body, signature included.
    pub(crate) body: Box<[u8]>,
    hash: u128,
    /// End of validity of this version or of an earlier one, whichever is later: so long it has to keep those away.
    keep_until: u32,
}

impl Stored {
    pub(crate) fn entry(&self) -> Entry {
        Entry { name: self.header.name, version: self.header.version }
    }

    pub(crate) fn payload(&self) -> &[u8] {
        Object::parse(&self.body).expect("parsed before it was stored").payload
    }

    pub(crate) fn not_after(&self) -> UnixMillis {
        UnixMillis(u64::from(self.header.not_after) * 1000)
    }
}

/// What a NODE object says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NodeKeys {
    pub(crate) signing_key: [u8; 32],
    pub(crate) agreement_key: [u8; 32],
    pub(crate) name: String,
    pub(crate) version: u64,
}

/// What became of an offered object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offer {
    /// New, or newer than before: stored.
    Accepted,
    /// Known byte for byte.
    Repeated,
    /// A newer version is known.
    Outdated,
    /// The origin signed two objects under one name and version. The one with the greater hash stays, on every node.
    Conflict {
        /// Whether that is the offered one.
        replaced: bool,
    },
}

/// Why an object is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("its validity ended more than 30 s ago")]
    Expired,
    #[error("by our clock it was made {} s in the future", .0.as_secs())]
    Ahead(Duration),
    #[error("its validity ends more than 22 days from now")]
    TooLong,
    #[error("its origin's NODE object is not known")]
    UnknownOrigin,
    #[error("its origin is not the hash of the key it carries, or another key has that id")]
    Origin,
    #[error("its signature is wrong")]
    Signature,
    #[error("{0}")]
    Payload(gem::Error),
    #[error("its number is not the one of its content, or its successor did not agree")]
    Content,
    #[error("its origin is revoked")]
    Revoked,
    #[error("over the quota of its origin or of the table")]
    Quota,
}

/// Node id that belongs to an Ed25519 public key.
pub(crate) fn node_id_of(signing_key: &[u8; 32]) -> NodeId {
    let digest = digest::digest(&digest::SHA256, signing_key);
    NodeId(*digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
}

/// Signs head and payload of an object; returns the TLV body.
pub(crate) fn sign(key: &signature::Ed25519KeyPair, header: &ObjectHeader, payload: &[u8]) -> Vec<u8> {
    let mut buffer = [0; gem::MAX_BODY_LEN];
    let len = header.emit(payload, &mut buffer);
    let signed = &buffer[..len];
    let signature = key.sign(&[SIGNATURE_LABEL, signed].concat());
    [signed, signature.as_ref()].concat()
}

fn verify(signing_key: &[u8; 32], object: &Object<'_>) -> Result<(), Refusal> {
    let message = [SIGNATURE_LABEL, object.signed].concat();
    if is_signed(signing_key, &message, object.signature) { Ok(()) } else { Err(Refusal::Signature) }
}

/// Whether an Ed25519 signature verifies.
pub(crate) fn is_signed(signing_key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    signature::UnparsedPublicKey::new(&signature::ED25519, signing_key).verify(message, signature).is_ok()
}

type Position = (u64, ObjectName);

/// What is known of one origin's objects.
#[derive(Clone, Default)]
struct Origin {
    positions: BTreeSet<Position>,
    first_seen: UnixMillis,
    /// What kind it is by its age.
    age: Standing,
    weight: Option<Weight>,
    /// Limits how often they change. Only what it signed takes tokens, so that nobody else can use them up.
    changes: Bucket,
}

/// The table.
#[derive(Default)]
pub(crate) struct Objects {
    /// Our own node, for whose objects there is always room.
    own: NodeId,
    /// By hash of the name, which is the order of the digest tree.
    by_position: BTreeMap<Position, Stored>,
    by_expiry: BTreeSet<(u32, Position)>,
    per_origin: BTreeMap<NodeId, Origin>,
    nodes: BTreeMap<NodeId, NodeKeys>,
    /// Administrators that this gateway was told of.
    administrators: BTreeMap<NodeId, [u8; 32]>,
    /// Nodes whose objects are refused.
    revoked: BTreeSet<NodeId>,
    /// What has a meaning beyond nodes and SEKs, in the order of its names.
    governing: BTreeSet<ObjectName>,
    idle: usize,
    sum: u128,
    room: Room,
    /// Withdrawals by nodes whose NODE ran out: nobody could verify them, so they are in no digest. They are back in the
    /// table with the NODE, before what they withdrew can be.
    buried: BTreeMap<ObjectName, Stored>,
    /// What gave way to others and was not fetched yet.
    evicted: Vec<Stored>,
}

impl Objects {
    pub(crate) fn new(own: NodeId) -> Self {
        Self { own, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_position.len()
    }

    pub(crate) fn get(&self, name: &ObjectName) -> Option<&Stored> {
        self.by_position.get(&position(name))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stored> {
        self.by_position.values()
    }

    /// Objects of one origin and administrative kind.
    pub(crate) fn of(&self, origin: NodeId, kind: ObjectKind) -> impl Iterator<Item = &Stored> {
        let name = |id| ObjectName { origin, kind, id };
        self.governing.range(name(0)..=name(u64::MAX)).filter_map(|name| self.get(name))
    }

    /// Everything with which nodes name their successors.
    pub(crate) fn successors(&self) -> impl Iterator<Item = &Stored> {
        let named = self.governing.iter().filter(|name| name.kind == ObjectKind::SUCCESSOR);
        named.filter_map(|name| self.get(name))
    }

    /// Everybody's votes.
    pub(crate) fn votes(&self) -> impl Iterator<Item = &Stored> {
        let named = self.governing.iter().filter(|name| name.kind == ObjectKind::BAN_VOTE);
        named.filter_map(|name| self.get(name))
    }

    /// What a node said of itself.
    pub(crate) fn node(&self, node: NodeId) -> Option<&NodeKeys> {
        self.nodes.get(&node)
    }

    /// The administrators that this gateway was told of.
    pub(crate) fn administrators(&self) -> impl Iterator<Item = NodeId> {
        self.administrators.keys().copied()
    }

    pub(crate) fn is_administrator(&self, node: NodeId) -> bool {
        self.administrators.contains_key(&node)
    }

    /// Tells which administrators count, by their whole Ed25519 keys. What another key of the same id signed goes.
    pub(crate) fn set_administrators(&mut self, keys: &[[u8; 32]]) {
        self.administrators = keys.iter().map(|key| (node_id_of(key), *key)).collect();
        let forged = |node: &NodeId| {
            let known = self.nodes.get(node).map(|keys| keys.signing_key);
            known.is_some_and(|known| self.administrators.get(node).is_some_and(|key| *key != known))
        };
        let forged: Vec<_> = self.by_position.keys().filter(|(_, name)| forged(&name.origin)).copied().collect();
        forged.iter().for_each(|position| drop(self.remove(position)));
        self.idle = self.by_position.values().filter(|stored| self.is_idle(&stored.header)).count();
        let lasting = self.by_position.iter().filter(|(_, stored)| stored.header.not_after == FOREVER);
        let ends: Vec<_> = lasting.map(|(position, stored)| (*position, self.end_of(&stored.header))).collect();
        for (position, end) in ends {
            let Some(stored) = self.by_position.get_mut(&position) else { continue };
            self.by_expiry.remove(&(stored.keep_until, position));
            stored.keep_until = end;
            self.by_expiry.insert((end, position));
        }
        self.weigh_all();
    }

    pub(crate) fn is_revoked(&self, node: NodeId) -> bool {
        self.revoked.contains(&node)
    }

    /// Tells which nodes are revoked; returns what goes because of it.
    pub(crate) fn set_revoked(&mut self, revoked: BTreeSet<NodeId>) -> Vec<Stored> {
        self.revoked = revoked;
        let of_revoked = |position: &&Position| self.revoked.contains(&position.1.origin);
        let positions: Vec<_> = self.by_position.keys().filter(of_revoked).copied().collect();
        let gone = positions.iter().filter_map(|position| self.remove(position)).collect();
        self.per_origin.retain(|_, origin| !origin.positions.is_empty());
        gone
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&NodeId, &NodeKeys)> {
        self.nodes.iter()
    }

    /// Whether an object is one that only its signature can judge; nothing else of it is looked at.
    pub(crate) fn is_news(&self, body: &[u8]) -> bool {
        let Ok(object) = Object::parse(body) else { return false };
        let known = self.get(&object.header.name);
        known.is_none_or(|known| object.header.version >= known.header.version && *known.body != *body)
    }

    /// Whether there is room for an object, if it is not known: its signature is not worth a check otherwise.
    pub(crate) fn has_room(&self, body: &[u8]) -> bool {
        let Ok(object) = Object::parse(body) else { return true };
        self.get(&object.header.name).is_some() || self.room_for(&object.header).is_some()
    }

    /// What gave way to others since this was asked last.
    pub(crate) fn take_evicted(&mut self) -> Vec<Stored> {
        core::mem::take(&mut self.evicted)
    }

    /// Whether an object's origin, if it is the one named, has not changed too much lately.
    pub(crate) fn may_change(&self, now: Instant, body: &[u8]) -> bool {
        let origin = Object::parse(body).ok().and_then(|object| self.per_origin.get(&object.header.name.origin));
        origin.is_none_or(|origin| origin.changes.has(now, CHANGES))
    }

    /// An object of this origin was taken in from a neighbour.
    pub(crate) fn changed(&mut self, now: Instant, origin: NodeId) {
        if let Some(origin) = self.per_origin.get_mut(&origin) {
            origin.changes.charge(now, CHANGES, 1);
        }
    }

    /// Takes an object if it is valid, signed by its origin, newer than what is known, and there is room for it.
    pub(crate) fn offer(&mut self, now: UnixMillis, body: &[u8]) -> Result<Offer, Refusal> {
        self.take(now, body, false)
    }

    /// Takes an object that was signed here just now: there is always room for it.
    pub(crate) fn publish(&mut self, now: UnixMillis, body: &[u8]) -> Result<Offer, Refusal> {
        self.take(now, body, true)
    }

    fn take(&mut self, now: UnixMillis, body: &[u8], ours: bool) -> Result<Offer, Refusal> {
        let object = Object::parse(body).map_err(Refusal::Payload)?;
        let header = object.header;
        let position = position(&header.name);
        let known = self.by_position.get(&position);
        if let Some(known) = known {
            if *known.body == *body {
                return Ok(Offer::Repeated);
            }
            if header.version < known.header.version {
                return Ok(Offer::Outdated);
            }
        }
        if self.revoked.contains(&header.name.origin) {
            return Err(Refusal::Revoked);
        }
        let conflict = known.filter(|known| known.header.version == header.version).map(|known| known.hash);
        let end = self.end_of(&header);
        let ends_at = UnixMillis(u64::from(end) * 1000);
        if now > ends_at + SKEW {
            return Err(Refusal::Expired);
        }
        if header.not_after == FOREVER && !is_lasting(&object) || end != FOREVER && ends_at > now + MAX_VALIDITY + SKEW
        {
            return Err(Refusal::TooLong);
        }
        let is_new = known.is_none();
        let known_until = known.map_or(0, |known| known.keep_until);
        if is_new && !ours && self.room_for(&header).is_none() {
            return Err(Refusal::Quota);
        }
        let node = self.verify(&object)?;
        // The version of a key is when it was made. What withdraws one is taken whatever the clock.
        if header.name.kind == ObjectKind::SEK && !header.tombstone && header.name.origin != self.own {
            let ahead = Duration::from_millis(header.version.saturating_sub(now.0));
            if ahead > SKEW {
                return Err(Refusal::Ahead(ahead));
            }
        }
        let hash = hash_of(body);
        if let Some(known_hash) = conflict.filter(|&known_hash| known_hash >= hash) {
            debug_assert_ne!(known_hash, hash, "different bytes");
            return Ok(Offer::Conflict { replaced: false });
        }
        if is_new && let Some(Some(least)) = self.room_for(&header) {
            let evicted = self.remove(&least);
            self.evicted.extend(evicted);
            self.forget_empty(least.1.origin);
        }
        let keep_until = known_until.max(end);
        self.remove(&position);
        let fresh = || Origin { first_seen: now, ..Origin::default() };
        self.per_origin.entry(header.name.origin).or_insert_with(fresh);
        self.store(position, Stored { header, body: body.into(), hash, keep_until });
        if let Some(keys) = node {
            self.nodes.insert(header.name.origin, keys);
            self.unbury(header.name.origin);
        }
        Ok(if conflict.is_some() { Offer::Conflict { replaced: true } } else { Offer::Accepted })
    }

    /// Checks the signature; a NODE object brings its own key, which its origin is the hash of.
    fn verify(&self, object: &Object<'_>) -> Result<Option<NodeKeys>, Refusal> {
        let header = &object.header;
        if header.name.kind == ObjectKind::NODE {
            let node = NodePayload::parse(object.payload).map_err(Refusal::Payload)?;
            if node_id_of(&node.signing_key) != header.name.origin || header.name.id != 0 {
                return Err(Refusal::Origin);
            }
            // The id has 64 bits only: the first key of an id is its only one, an administrator's is the configured one.
            let known = self.nodes.get(&header.name.origin).map(|keys| &keys.signing_key);
            let key = self.administrators.get(&header.name.origin).or(known);
            if key.is_some_and(|key| *key != node.signing_key) {
                return Err(Refusal::Origin);
            }
            verify(&node.signing_key, object)?;
            return Ok(Some(NodeKeys {
                signing_key: node.signing_key,
                agreement_key: node.agreement_key,
                name: node.name.to_owned(),
                version: header.version,
            }));
        }
        let node = self.nodes.get(&header.name.origin).ok_or(Refusal::UnknownOrigin)?;
        verify(&node.signing_key, object)?;
        if !kmg::check_payload(object).map_err(Refusal::Payload)? {
            return Err(Refusal::Content);
        }
        Ok(None)
    }

    /// Whether an object means nothing here.
    fn is_idle(&self, header: &ObjectHeader) -> bool {
        match header.name.kind {
            ObjectKind::SEK | ObjectKind::SUCCESSOR | ObjectKind::LEASE | ObjectKind::BAN_VOTE => false,
            ObjectKind::NODE if header.not_after != FOREVER => false,
            kind => {
                !(kind.is_administrative() || kind == ObjectKind::NODE) || !self.is_administrator(header.name.origin)
            }
        }
    }

    fn remove(&mut self, position: &Position) -> Option<Stored> {
        let stored = self.by_position.remove(position)?;
        let origin = stored.header.name.origin;
        self.sum = self.sum.wrapping_sub(stored.hash);
        self.by_expiry.remove(&(stored.keep_until, *position));
        self.idle -= usize::from(self.is_idle(&stored.header));
        self.governing.remove(&stored.header.name);
        if let Some(of_origin) = self.per_origin.get_mut(&origin) {
            of_origin.positions.remove(position);
        }
        self.weigh(origin);
        if stored.header.name.kind == ObjectKind::NODE {
            self.nodes.remove(&origin);
        }
        Some(stored)
    }

    /// Drops what ran out, tolerated skew included, so much at a time that it takes no time worth mentioning: while there
    /// is more, [`Objects::next_expiry`] is over. Objects of a node whose NODE ran out go before it: without its key nobody
    /// could verify them again.
    pub(crate) fn expire(&mut self, now: UnixMillis) -> Vec<Stored> {
        let (mut gone, mut done) = (Vec::new(), 0);
        while let Some(&(keep_until, position)) = self.by_expiry.first() {
            if now <= UnixMillis(u64::from(keep_until) * 1000) + SKEW || done >= EXPIRE_BATCH {
                break;
            }
            let origin = position.1.origin;
            if position.1.kind == ObjectKind::NODE {
                let of_origin = self.per_origin.get(&origin).into_iter().flat_map(|origin| &origin.positions);
                let orphans = of_origin.filter(|orphan| **orphan != position).take(EXPIRE_BATCH - done);
                let orphans: Vec<_> = orphans.copied().collect();
                for orphan in orphans {
                    let Some(stored) = self.remove(&orphan) else { continue };
                    if stored.header.tombstone && self.may_bury(origin) {
                        self.buried.insert(orphan.1, stored);
                    } else {
                        gone.push(stored);
                    }
                    done += 1;
                }
                if self.per_origin.get(&origin).is_some_and(|origin| origin.positions.len() > 1) {
                    break;
                }
            }
            gone.extend(self.remove(&position));
            done += 1;
            self.forget_empty(origin);
        }
        gone
    }

    /// Whether there is room to keep a withdrawal; the second half is for others than newcomers.
    fn may_bury(&self, origin: NodeId) -> bool {
        let room = if self.standing(origin) == Standing::Newcomer { MAX_BURIED / 2 } else { MAX_BURIED };
        self.buried.len() < room
    }

    /// The NODE of an origin is back, and what it withdrew stays withdrawn.
    fn unbury(&mut self, origin: NodeId) {
        let name = |kind, id| ObjectName { origin, kind: ObjectKind(kind), id };
        let names: Vec<_> = self.buried.range(name(0, 0)..=name(u8::MAX, u64::MAX)).map(|(name, _)| *name).collect();
        for name in names {
            let Some(stored) = self.buried.remove(&name) else { continue };
            self.store(position(&name), stored);
        }
    }

    /// Puts an object into its place, which is free.
    fn store(&mut self, position: Position, stored: Stored) {
        let header = stored.header;
        self.sum = self.sum.wrapping_add(stored.hash);
        self.by_expiry.insert((stored.keep_until, position));
        self.by_position.insert(position, stored);
        self.per_origin.entry(header.name.origin).or_default().positions.insert(position);
        self.weigh(header.name.origin);
        self.idle += usize::from(self.is_idle(&header));
        if is_governing(header.name.kind) {
            self.governing.insert(header.name);
        }
    }

    fn forget_empty(&mut self, origin: NodeId) {
        if self.per_origin.get(&origin).is_some_and(|origin| origin.positions.is_empty()) {
            self.per_origin.remove(&origin);
        }
    }

    /// Until when an object counts. What lasts for ever does so only from administrators that this gateway was told of;
    /// of others, so long from when it was made, which is its version.
    fn end_of(&self, header: &ObjectHeader) -> u32 {
        if header.not_after != FOREVER || self.is_administrator(header.name.origin) {
            return header.not_after;
        }
        u32::try_from((header.version / 1000).saturating_add(MAX_VALIDITY.as_secs()))
            .unwrap_or(FOREVER - 1)
            .min(FOREVER - 1)
    }

    /// When the next object runs out.
    pub(crate) fn next_expiry(&self) -> Option<UnixMillis> {
        let (keep_until, _) = self.by_expiry.first()?;
        Some(UnixMillis(u64::from(*keep_until) * 1000 + 1) + SKEW)
    }

    /// Digest of a subtree.
    pub(crate) fn digest(&self, range: Range) -> Digest {
        if range == Range::WHOLE {
            return Digest { range, count: u32::try_from(self.len()).unwrap_or(u32::MAX), sum: self.sum };
        }
        self.range(range).fold(Digest { range, count: 0, sum: 0 }, |digest, stored| Digest {
            range,
            count: digest.count + 1,
            sum: digest.sum.wrapping_add(stored.hash),
        })
    }

    /// Objects of a subtree.
    pub(crate) fn range(&self, range: Range) -> impl Iterator<Item = &Stored> {
        let (first, last) = range.bounds().into_inner();
        self.by_position.range((first, ObjectName::MIN)..=(last, ObjectName::MAX)).map(|(_, stored)| stored)
    }
}

fn is_governing(kind: ObjectKind) -> bool {
    kind.is_administrative() || kind == ObjectKind::SUCCESSOR || kind == ObjectKind::BAN_VOTE
}

/// Whether an object may be valid for longer than its origin is likely to be gone: what an administrator signs offline
/// cannot be renewed, and so is its NODE, told by having no key to agree on.
fn is_lasting(object: &Object<'_>) -> bool {
    let of_administrator = || NodePayload::parse(object.payload).is_ok_and(|node| node.agreement_key == [0; 32]);
    object.header.not_after == FOREVER
        && (object.header.name.kind.is_administrative()
            || (object.header.name.kind == ObjectKind::NODE && of_administrator()))
}

fn position(name: &ObjectName) -> Position {
    let digest = digest::digest(&digest::SHA256, &name.to_bytes());
    (u64::from_be_bytes(*digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes")), *name)
}

fn hash_of(body: &[u8]) -> u128 {
    let digest = digest::digest(&digest::SHA256, body);
    u128::from_be_bytes(*digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests;
