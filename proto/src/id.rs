//! Identifiers and counters that travel on the wire, each a type of its own so that none is taken for another.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};

/// Node id: the Babel router-id, the first 8 bytes of SHA-256 over the node's Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub [u8; 8]);

impl fmt::Display for NodeId {
    /// Colon-separated hexadecimal, as routing daemons print router-ids.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(":")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// What is no [`NodeId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeIdError;

impl fmt::Display for NodeIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no node id; expected one like 01:23:45:67:89:ab:cd:ef, as `gemctl node list` shows them")
    }
}

impl core::error::Error for NodeIdError {}

impl core::str::FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0; 8];
        let mut parts = text.split(':');
        for byte in &mut id {
            let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+')).ok_or(NodeIdError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| NodeIdError)?;
        }
        if parts.next().is_none() { Ok(Self(id)) } else { Err(NodeIdError) }
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Identifies one SEK on the wire. Random, chosen by the source; [`KeyId::RESERVED`] never name a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u32);

impl KeyId {
    /// Values that never name a key: in the key map they mark free slots.
    pub const RESERVED: [u32; 2] = [0, u32::MAX];

    /// Whether this can name a key.
    pub fn is_valid(self) -> bool {
        !Self::RESERVED.contains(&self.0)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Epoch of a group authorization key (GAK).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch(pub u16);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Packet counter: lane (the sealing worker) in the upper 8 bits, sequence in the lower 56. Starts at sequence 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Counter(pub u64);

impl Counter {
    /// Width of the sequence part in bits.
    pub const SEQ_BITS: u32 = 56;

    /// Counter number `seq` of lane `lane`; the sequence is cut to 56 bits.
    #[inline]
    pub const fn new(lane: u8, seq: u64) -> Self {
        Self(((lane as u64) << Self::SEQ_BITS) | (seq & ((1 << Self::SEQ_BITS) - 1)))
    }

    /// The lane.
    #[inline]
    pub const fn lane(self) -> u8 {
        (self.0 >> Self::SEQ_BITS) as u8
    }

    /// The sequence number in its lane.
    #[inline]
    pub const fn seq(self) -> u64 {
        self.0 & ((1 << Self::SEQ_BITS) - 1)
    }
}

/// Length of a [`Group`] on the wire: 16-byte address, prefix length.
pub const GROUP_LEN: usize = 17;

/// The unit of protection: one multicast group, or a prefix of groups under one rule.
///
/// IPv4 addresses are held IPv4-mapped (`::ffff:a.b.c.d`), so that one key type serves both families. Bits past the
/// prefix are zero: two equal groups have equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    address: [u8; 16],
    prefix_len: u8,
}

/// Why an address and prefix length are no [`Group`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupError {
    /// Not inside `224.0.0.0/4` or `ff00::/8`.
    NotMulticast,
    /// `224.0.0.0/24`, `ff01::/16` and `ff02::/16` never leave the link.
    LinkLocal,
    /// The prefix length is longer than the address.
    PrefixLength,
    /// The address has bits set past the prefix.
    HostBits,
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotMulticast => "not a multicast address (expected 224.0.0.0/4 or ff00::/8)",
            Self::LinkLocal => "a link-local multicast address, which never leaves its link",
            Self::PrefixLength => "prefix length longer than the address (32 for IPv4, 128 for IPv6)",
            Self::HostBits => "address bits set past the prefix length",
        })
    }
}

impl core::error::Error for GroupError {}

impl Group {
    /// The group of one address.
    pub fn single(address: IpAddr) -> Result<Self, GroupError> {
        Self::prefix(address, if address.is_ipv4() { 32 } else { 128 })
    }

    /// The groups under `address/prefix_len`, the length counted in the address's own family.
    pub fn prefix(address: IpAddr, prefix_len: u8) -> Result<Self, GroupError> {
        if !address.is_multicast() {
            return Err(GroupError::NotMulticast);
        }
        let (mapped, offset) = match address {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().octets(), 96),
            IpAddr::V6(v6) => (v6.octets(), 0),
        };
        let length = prefix_len.checked_add(offset).filter(|&length| length <= 128).ok_or(GroupError::PrefixLength)?;
        Self::from_mapped(mapped, length)
    }

    /// From the wire or a map: an IPv4-mapped or IPv6 address and a prefix length counted in 128 bits.
    pub fn from_mapped(address: [u8; 16], prefix_len: u8) -> Result<Self, GroupError> {
        if prefix_len > 128 {
            return Err(GroupError::PrefixLength);
        }
        let bits = u128::from_be_bytes(address);
        let host_mask = u128::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
        if bits & host_mask != 0 {
            return Err(GroupError::HostBits);
        }
        let address_of = unmap(&address);
        let shortest = if address_of.is_ipv4() { 96 + 4 } else { 8 };
        if !address_of.is_multicast() || prefix_len < shortest {
            return Err(GroupError::NotMulticast);
        }
        if is_link_local(&address) {
            return Err(GroupError::LinkLocal);
        }
        Ok(Self { address, prefix_len })
    }

    /// Decodes [`Group::to_bytes`].
    pub fn from_bytes(bytes: &[u8; GROUP_LEN]) -> Result<Self, GroupError> {
        let [address @ .., prefix_len] = *bytes;
        Self::from_mapped(address, prefix_len)
    }

    /// Fixed-width form used on the wire and in key derivations: 16-byte address, prefix length.
    pub fn to_bytes(&self) -> [u8; GROUP_LEN] {
        let mut bytes = [0; GROUP_LEN];
        bytes[..16].copy_from_slice(&self.address);
        bytes[16] = self.prefix_len;
        bytes
    }

    /// The IPv4-mapped or IPv6 address, 16 bytes in network order.
    pub fn mapped(&self) -> &[u8; 16] {
        &self.address
    }

    /// Prefix length counted in 128 bits; 128 names a single group.
    pub fn mapped_prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// The (first) address in its own family.
    pub fn address(&self) -> IpAddr {
        unmap(&self.address)
    }

    /// Prefix length in the address's own family.
    pub fn prefix_len(&self) -> u8 {
        if self.address().is_ipv4() { self.prefix_len - 96 } else { self.prefix_len }
    }

    /// Whether this names exactly one group address.
    pub fn is_single(&self) -> bool {
        self.prefix_len == 128
    }

    /// Whether an IPv4-mapped or IPv6 address lies in this group.
    pub fn contains(&self, mapped: &[u8; 16]) -> bool {
        let differing = u128::from_be_bytes(self.address) ^ u128::from_be_bytes(*mapped);
        differing.leading_zeros() >= u32::from(self.prefix_len)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() {
            write!(f, "{}", self.address())
        } else {
            write!(f, "{}/{}", self.address(), self.prefix_len())
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::str::FromStr for Group {
    type Err = GroupParseError;

    /// Parses `239.1.1.1`, `239.1.0.0/16`, `ff3e::1:1`, `ff3e::/32`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| GroupParseError::Syntax)?;
        match length {
            None => Self::single(address),
            Some(length) => Self::prefix(address, length.parse().map_err(|_| GroupParseError::Syntax)?),
        }
        .map_err(GroupParseError::Group)
    }
}

/// Why a text is no [`Group`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupParseError {
    /// Not an address, or not an address and a prefix length.
    Syntax,
    /// An address that is no usable group.
    Group(GroupError),
}

impl fmt::Display for GroupParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("not a group (expected an address like 239.1.1.1, or a prefix like ff3e::/32)"),
            Self::Group(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for GroupParseError {}

/// The address behind its 16-byte form: IPv4 when it is IPv4-mapped.
pub fn unmap(mapped: &[u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from(*mapped);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

/// The 16-byte form of an address: IPv4 becomes IPv4-mapped.
pub fn map(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => map_v4(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The 16-byte form of an IPv4 address.
#[inline(always)]
pub const fn map_v4(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// Whether a mapped multicast address never leaves its link: `224.0.0.0/24` (RFC 5771 §4), `ff01::/16`, `ff02::/16`
/// (RFC 4291 §2.7).
#[inline(always)]
pub fn is_link_local(mapped: &[u8; 16]) -> bool {
    if mapped[0] == 0xff { mapped[1] & 0x0f <= 2 } else { mapped[12] == 224 && mapped[13] == 0 && mapped[14] == 0 }
}

/// AEAD of a SEK.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Suite {
    /// AES-256-GCM.
    Aes256Gcm = 1,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305 = 2,
}

impl Suite {
    /// From its wire value; `None` for a suite this version does not know.
    pub fn from_wire(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// The name used in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn groups_parse_and_print_in_their_own_family() {
        for text in ["239.1.1.1", "239.1.0.0/16", "ff3e::1:1", "ff3e::/32", "224.0.1.0/24"] {
            assert_eq!(text.parse::<Group>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_group_is_refused_with_its_reason() {
        let refused = |text: &str| text.parse::<Group>().unwrap_err();
        assert_eq!(refused("10.0.0.1"), GroupParseError::Group(GroupError::NotMulticast));
        assert_eq!(refused("224.0.0.5"), GroupParseError::Group(GroupError::LinkLocal));
        assert_eq!(refused("ff02::1"), GroupParseError::Group(GroupError::LinkLocal));
        assert_eq!(refused("239.1.1.1/16"), GroupParseError::Group(GroupError::HostBits));
        assert_eq!(refused("239.0.0.0/33"), GroupParseError::Group(GroupError::PrefixLength));
        assert_eq!(refused("224.0.0.0/3"), GroupParseError::Group(GroupError::NotMulticast));
        assert_eq!(refused("239.1.1"), GroupParseError::Syntax);
    }

    #[test]
    fn a_prefix_contains_its_groups_and_no_others() {
        let group: Group = "239.1.0.0/16".parse().unwrap();
        assert!(group.contains(&map_v4([239, 1, 255, 3])));
        assert!(!group.contains(&map_v4([239, 2, 0, 0])));
        let single: Group = "239.1.1.1".parse().unwrap();
        assert!(single.contains(&map_v4([239, 1, 1, 1])));
        assert!(!single.contains(&map_v4([239, 1, 1, 0])));
    }

    #[test]
    fn bytes_round_trip() {
        let group: Group = "239.1.0.0/16".parse().unwrap();
        assert_eq!(Group::from_bytes(&group.to_bytes()), Ok(group));
    }

    #[test]
    fn counters_keep_lane_and_sequence_apart() {
        let counter = Counter::new(3, 77);
        assert_eq!((counter.lane(), counter.seq()), (3, 77));
        assert_eq!(Counter::new(255, (1 << 56) | 5).seq(), 5);
    }
}
