//! What a gateway says of a LAN that it may share with other gateways: the LEASE object, one per gateway and segment.
//!
//! The lease says that the gateway stands for election, not for how long: it counts while the gateway is reachable.

use super::{Error, MAX_PAYLOAD_LEN};

/// Payload of a LEASE object; its id is [`LeasePayload::id`].
///
/// ```text
/// 0                32            33         34        35
/// | segment (32)  | priority (1)| flags (1)| MACs (1)| MAC address (6) × n |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeasePayload<'a> {
    /// SHA-256 of the segment's name.
    pub segment: [u8; 32],
    /// The highest is elected; among equals each group has a gateway of its own.
    pub priority: u8,
    /// The gateway can forward: it is to be elected.
    pub ready: bool,
    /// Ethernet addresses it delivers from, at most [`LeasePayload::MAX_MACS`].
    pub macs: &'a [[u8; 6]],
}

/// The gateway can forward.
const FLAG_READY: u8 = 0x01;
/// Everything before the addresses.
const HEAD_LEN: usize = 35;

impl<'a> LeasePayload<'a> {
    /// Most addresses.
    pub const MAX_MACS: usize = 4;
    /// Longest payload.
    pub const MAX_LEN: usize = HEAD_LEN + 6 * Self::MAX_MACS;

    /// Id of the object: the segment's first 8 bytes, so that a gateway has one lease for each segment.
    pub fn id(&self) -> u64 {
        super::u64_of(&self.segment[..8])
    }

    /// Reads a payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Error> {
        let length = Error::Length { what: "LEASE payload", len: payload.len() };
        let (head, addresses) = payload.split_first_chunk::<HEAD_LEN>().ok_or(length)?;
        let (macs, []) = addresses.as_chunks::<6>() else { return Err(length) };
        let (priority, flags, count) = (head[32], head[33], usize::from(head[34]));
        if flags & !FLAG_READY != 0 {
            return Err(Error::Flags(flags));
        }
        if count != macs.len() || count > Self::MAX_MACS {
            return Err(length);
        }
        Ok(Self { segment: super::array(&head[..32]), priority, ready: flags & FLAG_READY != 0, macs })
    }

    /// Writes the payload; returns its length. Addresses past the fourth are left out.
    pub fn emit(&self, out: &mut [u8; HEAD_LEN + 6 * 4]) -> usize {
        let macs = &self.macs[..self.macs.len().min(Self::MAX_MACS)];
        out[..32].copy_from_slice(&self.segment);
        out[32] = self.priority;
        out[33] = if self.ready { FLAG_READY } else { 0 };
        out[34] = u8::try_from(macs.len()).expect("at most four");
        let addresses = macs.as_flattened();
        out[HEAD_LEN..HEAD_LEN + addresses.len()].copy_from_slice(addresses);
        HEAD_LEN + addresses.len()
    }
}

const _: () = assert!(LeasePayload::MAX_LEN <= MAX_PAYLOAD_LEN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_survive_the_wire_and_damage_is_named() {
        let macs = [[2, 0x47, 0x43, 0, 1, 1], [2, 0x47, 0x43, 0, 1, 2]];
        let lease = LeasePayload { segment: [0xab; 32], priority: 100, ready: true, macs: &macs };
        let mut bytes = [0; LeasePayload::MAX_LEN];
        let len = lease.emit(&mut bytes);
        assert_eq!(len, 35 + 12);
        assert_eq!(LeasePayload::parse(&bytes[..len]), Ok(lease));
        assert_eq!(lease.id(), 0xabab_abab_abab_abab);
        for cut in 0..len {
            assert!(LeasePayload::parse(&bytes[..cut]).is_err(), "{cut} bytes");
        }
        bytes[33] = 0x81;
        assert_eq!(LeasePayload::parse(&bytes[..len]), Err(Error::Flags(0x81)));
        let five = [&[0; 34][..], &[5], &[0; 30]].concat();
        assert!(LeasePayload::parse(&five).is_err(), "five addresses");
    }
}
