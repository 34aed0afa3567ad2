//! What a gateway says of another one that should be banned: the BAN-VOTE object, one per voter and culprit.
//!
//! It is withdrawn by a newer version, like every object, and it runs out.

use super::{Error, MAX_PAYLOAD_LEN, array};
use crate::id::NodeId;

/// Why a node should be banned.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reason(pub u8);

impl Reason {
    /// An operator said so.
    pub const OPERATOR: Self = Self(0);
    /// It signed two objects under one name and version.
    pub const EQUIVOCATION: Self = Self(1);
}

/// Payload of a BAN-VOTE object; the object's id is the culprit's node id.
///
/// ```text
/// 0             8           9          10
/// | culprit (8) | reason (1)| flags (1)|
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VotePayload {
    /// The node that should be banned.
    pub culprit: NodeId,
    /// Why; an unknown reason is one.
    pub reason: Reason,
    /// The voter renews the vote until it withdraws it; else it ends with the ban it is for.
    pub lasting: bool,
}

/// The vote is renewed.
const FLAG_LASTING: u8 = 0x01;

impl VotePayload {
    /// Length of the payload.
    pub const LEN: usize = 10;

    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let payload: &[u8; Self::LEN] =
            payload.try_into().map_err(|_| Error::Length { what: "BAN-VOTE payload", len: payload.len() })?;
        let flags = payload[9];
        if flags & !FLAG_LASTING != 0 {
            return Err(Error::Flags(flags));
        }
        Ok(Self {
            culprit: NodeId(array(&payload[..8])),
            reason: Reason(payload[8]),
            lasting: flags & FLAG_LASTING != 0,
        })
    }

    /// The payload.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.culprit.0);
        out[8] = self.reason.0;
        out[9] = if self.lasting { FLAG_LASTING } else { 0 };
        out
    }
}

const _: () = assert!(VotePayload::LEN <= MAX_PAYLOAD_LEN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn votes_survive_the_wire_and_damage_is_named() {
        let vote = VotePayload { culprit: NodeId([7; 8]), reason: Reason::EQUIVOCATION, lasting: true };
        let bytes = vote.to_bytes();
        assert_eq!(bytes, [7, 7, 7, 7, 7, 7, 7, 7, 1, 1]);
        assert_eq!(VotePayload::parse(&bytes), Ok(vote));
        assert_eq!(VotePayload::parse(&bytes[..9]), Err(Error::Length { what: "BAN-VOTE payload", len: 9 }));
        assert_eq!(VotePayload::parse(&[0, 0, 0, 0, 0, 0, 0, 1, 200, 2]), Err(Error::Flags(2)));
    }
}
