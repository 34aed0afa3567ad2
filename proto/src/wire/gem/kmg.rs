//! What the administrator announces with the KMG key, and what a node says of its successor.
//!
//! Every payload fits one TLV: a group key travels as one GAK-PACKAGE and one GAK-SHARE for each member, which are
//! committed as a whole (the package holds a digest over its shares).

use super::{Error, MAX_NAME_LEN, MAX_PAYLOAD_LEN, array, u64_of};
use crate::id::{Epoch, GROUP_LEN, Group, NodeId};

/// Validity of what the administrator announces: until something newer replaces it. It is signed offline, so nobody
/// could renew it.
pub const FOREVER: u32 = u32::MAX;
/// What a successor's signature covers begins with this.
pub const SUCCESSOR_LABEL: &[u8] = b"gemcast1 successor";

const _: () = assert!(SharePayload::LEN <= MAX_PAYLOAD_LEN && SuccessorPayload::LEN <= MAX_PAYLOAD_LEN);

/// Payload of a GAK-PACKAGE.
///
/// ```text
/// 0            17         19                 27         28          30          62
/// | group (17) | epoch (2)| activate at (8)  | flags (1)| shares (2)| digest (32)|
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackagePayload {
    /// Group the key is for.
    pub group: Group,
    /// Its epoch.
    pub epoch: Epoch,
    /// When senders change to it, Unix milliseconds.
    pub activate_at_ms: u64,
    /// The epochs before are not accepted any longer than it takes to change.
    pub emergency: bool,
    /// Number of shares; those with the package's version belong to it.
    pub shares: u16,
    /// SHA-256 over the SHA-256 of each share's payload, these in ascending order.
    pub digest: [u8; 32],
}

/// No overlap.
const FLAG_EMERGENCY: u8 = 0x01;

impl PackagePayload {
    /// Length of the payload.
    pub const LEN: usize = GROUP_LEN + 2 + 8 + 1 + 2 + 32;

    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let payload: &[u8; Self::LEN] =
            payload.try_into().map_err(|_| Error::Length { what: "GAK-PACKAGE payload", len: payload.len() })?;
        let flags = payload[27];
        if flags & !FLAG_EMERGENCY != 0 {
            return Err(Error::Flags(flags));
        }
        Ok(Self {
            group: Group::from_bytes(&array(&payload[..17])).map_err(Error::Group)?,
            epoch: Epoch(u16::from_be_bytes(array(&payload[17..19]))),
            activate_at_ms: u64_of(&payload[19..27]),
            emergency: flags & FLAG_EMERGENCY != 0,
            shares: u16::from_be_bytes(array(&payload[28..30])),
            digest: array(&payload[30..]),
        })
    }

    /// The payload.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..17].copy_from_slice(&self.group.to_bytes());
        out[17..19].copy_from_slice(&self.epoch.0.to_be_bytes());
        out[19..27].copy_from_slice(&self.activate_at_ms.to_be_bytes());
        out[27] = if self.emergency { FLAG_EMERGENCY } else { 0 };
        out[28..30].copy_from_slice(&self.shares.to_be_bytes());
        out[30..].copy_from_slice(&self.digest);
        out
    }
}

/// Payload of a GAK-SHARE: the group key, encrypted to one member (HPKE, RFC 9180, base mode).
///
/// ```text
/// 0            17         19          27        59              107
/// | group (17) | epoch (2)| member (8)| enc (32)| ciphertext (48)|
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharePayload {
    /// Group the key is for.
    pub group: Group,
    /// Its epoch.
    pub epoch: Epoch,
    /// Node that can open it.
    pub member: NodeId,
    /// Encapsulated key.
    pub enc: [u8; 32],
    /// Group key encrypted, with AEAD tag.
    pub ciphertext: [u8; 48],
}

impl SharePayload {
    /// Length of the payload.
    pub const LEN: usize = GROUP_LEN + 2 + 8 + 32 + 48;

    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let payload: &[u8; Self::LEN] =
            payload.try_into().map_err(|_| Error::Length { what: "GAK-SHARE payload", len: payload.len() })?;
        Ok(Self {
            group: Group::from_bytes(&array(&payload[..17])).map_err(Error::Group)?,
            epoch: Epoch(u16::from_be_bytes(array(&payload[17..19]))),
            member: NodeId(array(&payload[19..27])),
            enc: array(&payload[27..59]),
            ciphertext: array(&payload[59..]),
        })
    }

    /// The payload.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..17].copy_from_slice(&self.group.to_bytes());
        out[17..19].copy_from_slice(&self.epoch.0.to_be_bytes());
        out[19..27].copy_from_slice(&self.member.0);
        out[27..59].copy_from_slice(&self.enc);
        out[59..].copy_from_slice(&self.ciphertext);
        out
    }
}

/// Payload of a REVOKE: the node that is no longer one of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RevokePayload {
    /// The node.
    pub node: NodeId,
}

impl RevokePayload {
    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let node = payload.try_into().map_err(|_| Error::Length { what: "REVOKE payload", len: payload.len() })?;
        Ok(Self { node: NodeId(node) })
    }
}

/// What a node may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// Its keys are accepted: it may send.
    pub send: bool,
    /// It may make use of the keys of others.
    pub receive: bool,
    /// It may relay.
    pub relay: bool,
}

impl Rights {
    /// Everything.
    pub const ALL: Self = Self { send: true, receive: true, relay: true };
    /// Nothing: of a revoked node, or of one that is not listed where only listed ones have any.
    pub const NONE: Self = Self { send: false, receive: false, relay: false };

    fn to_bits(self) -> u8 {
        u8::from(self.send) | u8::from(self.receive) << 1 | u8::from(self.relay) << 2
    }

    fn from_bits(bits: u8) -> Option<Self> {
        let has = |bit: u8| bits & 1 << bit != 0;
        (bits < 8).then(|| Self { send: has(0), receive: has(1), relay: has(2) })
    }
}

/// Payload of a ROSTER: one node that is listed.
///
/// ```text
/// | node (8) | rights (1) | name length (1) | name |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RosterPayload<'a> {
    /// The node.
    pub node: NodeId,
    /// What it may do.
    pub rights: Rights,
    /// What the administrator calls it.
    pub name: &'a str,
}

impl<'a> RosterPayload<'a> {
    /// Longest payload.
    pub const MAX_LEN: usize = 10 + MAX_NAME_LEN;

    /// Reads a payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Error> {
        let length = Error::Length { what: "ROSTER payload", len: payload.len() };
        let (&node, rest) = payload.split_first_chunk::<8>().ok_or(length)?;
        let (&[rights, len], name) = rest.split_first_chunk::<2>().ok_or(length)?;
        if usize::from(len) != name.len() || name.len() > MAX_NAME_LEN {
            return Err(Error::Name);
        }
        let name = core::str::from_utf8(name).map_err(|_| Error::Name)?;
        if !super::is_plain_name(name) {
            return Err(Error::NameCharacters);
        }
        Ok(Self { node: NodeId(node), rights: Rights::from_bits(rights).ok_or(Error::Flags(rights))?, name })
    }

    /// Writes the payload; returns its length.
    ///
    /// # Panics
    /// When the name is longer than [`MAX_NAME_LEN`].
    pub fn emit(&self, out: &mut [u8; 10 + MAX_NAME_LEN]) -> usize {
        assert!(self.name.len() <= MAX_NAME_LEN, "a node name has at most 63 bytes");
        out[..8].copy_from_slice(&self.node.0);
        out[8] = self.rights.to_bits();
        out[9] = u8::try_from(self.name.len()).expect("checked above");
        out[10..10 + self.name.len()].copy_from_slice(self.name.as_bytes());
        10 + self.name.len()
    }
}

/// Payload of a SUCCESSOR: the node that takes its origin's place.
///
/// ```text
/// | Ed25519 public key (32) | not before (8) | its signature over label ‖ origin ‖ not before (64) |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SuccessorPayload {
    /// The successor's signing key; its node id is the hash.
    pub signing_key: [u8; 32],
    /// From when on it stands for its predecessor, Unix milliseconds.
    pub not_before_ms: u64,
    /// Made with the successor's key, so that nobody can pass on a place to one who does not want it.
    pub signature: [u8; 64],
}

impl SuccessorPayload {
    /// Length of the payload.
    pub const LEN: usize = 32 + 8 + 64;
    /// Length of what the successor signs.
    pub const SIGNED_LEN: usize = SUCCESSOR_LABEL.len() + 8 + 8;

    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let payload: &[u8; Self::LEN] =
            payload.try_into().map_err(|_| Error::Length { what: "SUCCESSOR payload", len: payload.len() })?;
        Ok(Self {
            signing_key: array(&payload[..32]),
            not_before_ms: u64_of(&payload[32..40]),
            signature: array(&payload[40..]),
        })
    }

    /// The payload.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..32].copy_from_slice(&self.signing_key);
        out[32..40].copy_from_slice(&self.not_before_ms.to_be_bytes());
        out[40..].copy_from_slice(&self.signature);
        out
    }

    /// What the successor signs.
    pub fn signed(predecessor: NodeId, not_before_ms: u64) -> [u8; Self::SIGNED_LEN] {
        let mut out = [0; Self::SIGNED_LEN];
        let (label, rest) = out.split_at_mut(SUCCESSOR_LABEL.len());
        label.copy_from_slice(SUCCESSOR_LABEL);
        rest[..8].copy_from_slice(&predecessor.0);
        rest[8..].copy_from_slice(&not_before_ms.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;

    proptest! {
        #[test]
        fn payloads_round_trip(
            group in any::<[u8; 3]>(), epoch in any::<u16>(), at in any::<u64>(), emergency in any::<bool>(),
            node in any::<[u8; 8]>(), keys in any::<([u8; 32], [u8; 32])>(), bits in 0..8u8, name in "[a-zäß-]{0,20}",
        ) {
            let group = Group::single([239, group[0], group[1], group[2]].into()).unwrap();
            let (epoch, node, name): (_, _, String) = (Epoch(epoch), NodeId(node), name);
            let package =
                PackagePayload { group, epoch, activate_at_ms: at, emergency, shares: epoch.0, digest: keys.0 };
            prop_assert_eq!(PackagePayload::parse(&package.to_bytes()), Ok(package));
            let mut ciphertext = [1; 48];
            ciphertext[..32].copy_from_slice(&keys.1);
            let share = SharePayload { group, epoch, member: node, enc: keys.0, ciphertext };
            prop_assert_eq!(SharePayload::parse(&share.to_bytes()), Ok(share));
            let entry = RosterPayload { node, rights: Rights::from_bits(bits).unwrap(), name: &name };
            let mut out = [0; RosterPayload::MAX_LEN];
            let len = entry.emit(&mut out);
            prop_assert_eq!(RosterPayload::parse(&out[..len]), Ok(entry));
            prop_assert_eq!(RevokePayload::parse(&node.0), Ok(RevokePayload { node }));
            let successor = SuccessorPayload { signing_key: keys.0, not_before_ms: at, signature: [7; 64] };
            prop_assert_eq!(SuccessorPayload::parse(&successor.to_bytes()), Ok(successor));
        }

        #[test]
        fn any_bytes_are_read_or_refused(payload in proptest::collection::vec(any::<u8>(), 0..=MAX_PAYLOAD_LEN)) {
            let _ = PackagePayload::parse(&payload);
            let _ = SharePayload::parse(&payload);
            let _ = RevokePayload::parse(&payload);
            let _ = RosterPayload::parse(&payload);
            let _ = SuccessorPayload::parse(&payload);
        }
    }

    #[test]
    fn a_package_has_the_bytes_of_its_drawing() {
        let package = PackagePayload {
            group: "239.1.1.1".parse().unwrap(),
            epoch: Epoch(0x0102),
            activate_at_ms: 0x0304,
            emergency: true,
            shares: 5,
            digest: [6; 32],
        };
        let bytes = package.to_bytes();
        assert_eq!(bytes[12..19], [239, 1, 1, 1, 128, 1, 2]);
        assert_eq!(bytes[19..30], [0, 0, 0, 0, 0, 0, 3, 4, 1, 0, 5]);
        let mut unknown = bytes;
        unknown[27] = 2;
        assert_eq!(PackagePayload::parse(&unknown), Err(Error::Flags(2)));
    }
}
