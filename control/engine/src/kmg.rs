//! What the administrator makes with the KMG key, offline: objects that any gateway can be given and that spread from it.
//!
//! The administrator is an origin like any node: its id is the hash of its public key, and a NODE object (without a key to
//! agree on, as nothing is ever encrypted to it) travels along with what it signs, so that relays that were never told of
//! it verify and pass it on. Names are slots: the latest version of a slot stays. A group has four slots for its epochs,
//! a member four for its shares, so that any number of rotations leaves the table as large as it is.

use crate::object::{self, Objects};
use crate::secret::Secret;
use crate::share::{self, Binding};
use crate::time::UnixMillis;
use gemcast_proto::id::{Epoch, Group, NodeId};
use gemcast_proto::wire::gem::kmg::{
    FOREVER, PackagePayload, RevokePayload, Rights, RosterPayload, SharePayload, SuccessorPayload,
};
use gemcast_proto::wire::gem::lease::LeasePayload;
use gemcast_proto::wire::gem::vote::VotePayload;
use gemcast_proto::wire::gem::{self, NodePayload, Object, ObjectHeader, ObjectKind, ObjectName};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use ring::digest;
use ring::signature::{Ed25519KeyPair, KeyPair};

/// Epochs of a group whose packages are kept beside each other.
const EPOCH_SLOTS: u16 = 4;

/// One that a group key is given to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Member {
    /// Its node id.
    pub node: NodeId,
    /// Its X25519 public key.
    pub agreement_key: [u8; 32],
}

/// What a package is made of.
pub struct Package<'a> {
    /// Group the key is for.
    pub group: Group,
    /// Its epoch; higher than any before.
    pub epoch: Epoch,
    /// When senders change to it.
    pub activate_at: UnixMillis,
    /// The epochs before are not accepted any longer than it takes to change.
    pub emergency: bool,
    /// Who gets it; each node once.
    pub members: &'a [Member],
}

/// Why a package cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PackageError {
    /// More members than a package counts.
    #[error("{0} members; a package has room for 65535")]
    Members(usize),
    /// A member that is listed twice.
    #[error("node {0} is listed twice")]
    Twice(NodeId),
    /// Nothing can be encrypted to a member's key.
    #[error("the X25519 key of node {0} is none that anything can be encrypted to")]
    Key(NodeId),
}

/// The administrator's key pair.
pub struct Administrator {
    key: Ed25519KeyPair,
    public_key: [u8; 32],
    id: NodeId,
}

impl Administrator {
    /// From the Ed25519 seed (RFC 8032 §5.1.5).
    pub fn new(seed: &Secret<32>) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(seed.expose()).expect("every 32 bytes are an Ed25519 seed");
        let public_key = key.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes");
        Self { key, public_key, id: object::node_id_of(&public_key) }
    }

    /// The public key, which gateways are configured with.
    pub fn public_key(&self) -> [u8; 32] {
        self.public_key
    }

    /// Its id as an origin.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Its NODE object, which goes in front of the others.
    pub fn node(&self, name: &str, version: u64) -> Vec<u8> {
        let mut payload = [0; NodePayload::MAX_LEN];
        let node = NodePayload { signing_key: self.public_key, agreement_key: [0; 32], name };
        let len = node.emit(&mut payload);
        self.sign(ObjectKind::NODE, 0, version, &payload[..len])
    }

    /// A group key for its members: the package and its shares. `seed` feeds the generator of ephemeral keys and must be
    /// new each time.
    pub fn package(
        &self,
        package: &Package<'_>,
        gak: &Secret<32>,
        version: u64,
        seed: [u8; 32],
    ) -> Result<Vec<Vec<u8>>, PackageError> {
        let Package { group, epoch, activate_at, emergency, members } = *package;
        let count = u16::try_from(members.len()).map_err(|_| PackageError::Members(members.len()))?;
        let mut sorted = members.to_vec();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].node == pair[1].node) {
            return Err(PackageError::Twice(pair[0].node));
        }
        let mut rng = ChaCha20Rng::from_seed(seed);
        let (mut shares, mut hashes) = (Vec::new(), Vec::new());
        for member in sorted {
            let binding = Binding { group, epoch, member: member.node, administrator: self.id };
            let sealed = share::seal(&mut rng, &member.agreement_key, &binding, gak);
            let (enc, ciphertext) = sealed.ok_or(PackageError::Key(member.node))?;
            let payload = SharePayload { group, epoch, member: member.node, enc, ciphertext }.to_bytes();
            hashes.push(hash(&payload));
            let id = share_id(group, epoch, member.node);
            shares.push(self.sign(ObjectKind::GAK_SHARE, id, version, &payload));
        }
        let payload = PackagePayload {
            group,
            epoch,
            activate_at_ms: activate_at.0,
            emergency,
            shares: count,
            digest: digest_of(hashes),
        };
        let id = package_id(group, epoch);
        let package = self.sign(ObjectKind::GAK_PACKAGE, id, version, &payload.to_bytes());
        Ok([vec![package], shares].concat())
    }

    /// Cuts a node off.
    pub fn revoke(&self, node: NodeId, version: u64) -> Vec<u8> {
        self.sign(ObjectKind::REVOKE, u64::from_be_bytes(node.0), version, &node.0)
    }

    /// Lists a node.
    pub fn list(&self, node: NodeId, rights: Rights, name: &str, version: u64) -> Vec<u8> {
        let mut payload = [0; RosterPayload::MAX_LEN];
        let len = RosterPayload { node, rights, name }.emit(&mut payload);
        self.sign(ObjectKind::ROSTER, u64::from_be_bytes(node.0), version, &payload[..len])
    }

    /// Withdraws a node's REVOKE or ROSTER.
    pub fn withdraw(&self, kind: ObjectKind, node: NodeId, version: u64) -> Vec<u8> {
        let name = ObjectName { origin: self.id, kind, id: u64::from_be_bytes(node.0) };
        object::sign(&self.key, &ObjectHeader { tombstone: true, name, version, not_after: FOREVER }, &[])
    }

    fn sign(&self, kind: ObjectKind, id: u64, version: u64, payload: &[u8]) -> Vec<u8> {
        let name = ObjectName { origin: self.id, kind, id };
        object::sign(&self.key, &ObjectHeader { tombstone: false, name, version, not_after: FOREVER }, payload)
    }
}

/// The objects by which a node names its successor: its NODE, and the SUCCESSOR signed by both. They hold for 21 days,
/// within which the roster has to follow.
pub fn succession(
    old: &Secret<32>,
    old_agreement_key: [u8; 32],
    name: &str,
    new: &Secret<32>,
    now: UnixMillis,
) -> Vec<Vec<u8>> {
    const VALID_SECONDS: u64 = 21 * 24 * 3600;
    let (old, new) = (Administrator::new(old), Administrator::new(new));
    let not_after = u32::try_from(now.0 / 1000 + VALID_SECONDS).unwrap_or(FOREVER);
    let header = |kind| ObjectHeader {
        tombstone: false,
        name: ObjectName { origin: old.id, kind, id: 0 },
        version: now.0,
        not_after,
    };
    let mut payload = [0; NodePayload::MAX_LEN];
    let len = NodePayload { signing_key: old.public_key, agreement_key: old_agreement_key, name }.emit(&mut payload);
    let signature = new.key.sign(&SuccessorPayload::signed(old.id, now.0));
    let successor = SuccessorPayload {
        signing_key: new.public_key,
        not_before_ms: now.0,
        signature: signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes"),
    };
    vec![
        object::sign(&old.key, &header(ObjectKind::NODE), &payload[..len]),
        object::sign(&old.key, &header(ObjectKind::SUCCESSOR), &successor.to_bytes()),
    ]
}

/// Node id that belongs to an Ed25519 public key.
pub fn node_id(signing_key: &[u8; 32]) -> NodeId {
    object::node_id_of(signing_key)
}

/// Checks objects in their order as a gateway would that knows nothing else; `Err` says why one is refused.
pub fn check(now: UnixMillis, bodies: &[Vec<u8>]) -> Vec<Result<(), String>> {
    let mut table = Objects::new(NodeId::default());
    bodies.iter().map(|body| table.offer(now, body).map(drop).map_err(|refusal| refusal.to_string())).collect()
}

/// Whether the payload of an administrative object, a LEASE or a BAN-VOTE makes sense and its number is that of its slot.
pub(crate) fn check_payload(object: &Object<'_>) -> Result<bool, gem::Error> {
    let (id, payload) = (object.header.name.id, object.payload);
    if object.header.tombstone {
        return Ok(true);
    }
    let slot = match object.header.name.kind {
        ObjectKind::GAK_PACKAGE => {
            let package = PackagePayload::parse(payload)?;
            package_id(package.group, package.epoch)
        }
        ObjectKind::GAK_SHARE => {
            let share = SharePayload::parse(payload)?;
            share_id(share.group, share.epoch, share.member)
        }
        ObjectKind::REVOKE => u64::from_be_bytes(RevokePayload::parse(payload)?.node.0),
        ObjectKind::ROSTER => u64::from_be_bytes(RosterPayload::parse(payload)?.node.0),
        ObjectKind::SUCCESSOR => {
            let successor = SuccessorPayload::parse(payload)?;
            let signed = SuccessorPayload::signed(object.header.name.origin, successor.not_before_ms);
            if !object::is_signed(&successor.signing_key, &signed, &successor.signature) {
                return Ok(false);
            }
            0
        }
        ObjectKind::LEASE => LeasePayload::parse(payload)?.id(),
        ObjectKind::BAN_VOTE => u64::from_be_bytes(VotePayload::parse(payload)?.culprit.0),
        _ => id,
    };
    Ok(slot == id)
}

/// Digest over the hashes of a package's shares.
pub(crate) fn digest_of(mut hashes: Vec<[u8; 32]>) -> [u8; 32] {
    hashes.sort_unstable();
    hash(&hashes.concat())
}

pub(crate) fn hash(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Number of the slot of a group's epoch.
fn package_id(group: Group, epoch: Epoch) -> u64 {
    slot(&[b"gemcast1 package", &group.to_bytes(), &[slot_of(epoch)]])
}

/// Number of the slot of a member's share.
pub(crate) fn share_id(group: Group, epoch: Epoch, member: NodeId) -> u64 {
    slot(&[b"gemcast1 share", &group.to_bytes(), &[slot_of(epoch)], &member.0])
}

/// Which of a group's slots an epoch has.
pub(crate) fn slot_of(epoch: Epoch) -> u8 {
    u8::try_from(epoch.0 % EPOCH_SLOTS).expect("below four")
}

fn slot(fields: &[&[u8]]) -> u64 {
    u64::from_be_bytes(*hash(&fields.concat()).first_chunk().expect("SHA-256 has 32 bytes"))
}
