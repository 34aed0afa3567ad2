//! Network prefixes, and how Babel encodes addresses (RFC 8966 §4.1.4, §4.1.5).

use core::cmp::Ordering;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Address encodings.
pub(super) mod ae {
    /// No address.
    pub(in super::super) const WILDCARD: u8 = 0;
    /// IPv4, 4 bytes.
    pub(in super::super) const IPV4: u8 = 1;
    /// IPv6, 16 bytes.
    pub(in super::super) const IPV6: u8 = 2;
    /// IPv6 in `fe80::/64`, its lower 8 bytes.
    pub(in super::super) const LINK_LOCAL: u8 = 3;
    /// IPv4 prefix whose next hop is IPv6 (RFC 9229).
    pub(in super::super) const IPV4_VIA_IPV6: u8 = 4;
}

/// An IPv4 or IPv6 prefix; the bits past its length are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Why address and length are no [`Prefix`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PrefixError {
    /// Longer than the address.
    Length(u8),
    /// Fewer octets than the length needs.
    Octets,
    /// More octets omitted than an address has.
    Omitted(u8),
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(len) => write!(f, "prefix length {len} is longer than the address"),
            Self::Octets => f.write_str("prefix with fewer octets than its length needs"),
            Self::Omitted(omitted) => write!(f, "prefix with {omitted} omitted octets"),
        }
    }
}

impl core::error::Error for PrefixError {}

impl Prefix {
    /// The default route of IPv4.
    pub const IPV4_DEFAULT: Self = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), len: 0 };
    /// The default route of IPv6.
    pub const IPV6_DEFAULT: Self = Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), len: 0 };

    /// `address/len`; bits past the length are cleared.
    pub fn new(address: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let address = match address {
            IpAddr::V4(v4) if len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) if len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
            _ => return Err(PrefixError::Length(len)),
        };
        Ok(Self { address, len })
    }

    /// The prefix of one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, len: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// First address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Length in bits, in the family's own count.
    #[expect(clippy::len_without_is_empty, reason = "a prefix length; nothing is contained")]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether this is an IPv4 prefix.
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether an address lies in this prefix.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && Self::new(address, self.len).is_ok_and(|prefix| prefix == *self)
    }

    /// Whether every address of `other` lies in this prefix.
    pub fn covers(&self, other: &Self) -> bool {
        other.len >= self.len && self.contains(other.address)
    }

    /// Octets that the wire carries: as many as the length needs.
    pub(super) fn octets(&self) -> ([u8; 16], usize) {
        let mut octets = [0; 16];
        match self.address {
            IpAddr::V4(v4) => octets[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => octets = v6.octets(),
        }
        (octets, usize::from(self.len).div_ceil(8))
    }
}

/// IPv4 before IPv6, then by address, then the shorter one first. Tables are kept in this order, so it is three integers.
impl Ord for Prefix {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |prefix: &Self| match prefix.address {
            IpAddr::V4(v4) => (false, u128::from(v4.to_bits()), prefix.len),
            IpAddr::V6(v6) => (true, v6.to_bits(), prefix.len),
        };
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::str::FromStr for Prefix {
    type Err = PrefixParseError;

    /// Parses `10.0.0.0/8`, `2001:db8::/32`, and a lone address as the prefix of that address.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        let address: IpAddr = address.parse().map_err(|_| PrefixParseError)?;
        let Some(len) = len else { return Ok(Self::host(address)) };
        let prefix = Self::new(address, len.parse().map_err(|_| PrefixParseError)?).map_err(|_| PrefixParseError)?;
        if prefix.address == address { Ok(prefix) } else { Err(PrefixParseError) }
    }
}

/// A text that is no [`Prefix`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixParseError;

impl fmt::Display for PrefixParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a prefix (expected one like 10.0.0.0/8 or 2001:db8::/32, no bits set past its length)")
    }
}

impl core::error::Error for PrefixParseError {}

/// Length of a whole address in an encoding; `None` for one that is unknown.
pub(super) fn address_len(encoding: u8) -> Option<usize> {
    match encoding {
        ae::WILDCARD => Some(0),
        ae::IPV4 | ae::IPV4_VIA_IPV6 => Some(4),
        ae::IPV6 => Some(16),
        ae::LINK_LOCAL => Some(8),
        _ => None,
    }
}

/// The encoding of a host address, shortest form.
pub(super) fn encoding_of(address: Option<IpAddr>) -> u8 {
    match address {
        None => ae::WILDCARD,
        Some(IpAddr::V4(_)) => ae::IPV4,
        Some(IpAddr::V6(v6)) if v6.octets().starts_with(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0]) => ae::LINK_LOCAL,
        Some(IpAddr::V6(_)) => ae::IPV6,
    }
}

/// Decodes a host address; `None` for the wildcard. `bytes` has exactly [`address_len`] bytes.
pub(super) fn decode_address(encoding: u8, bytes: &[u8]) -> Option<IpAddr> {
    match (encoding, bytes) {
        (ae::IPV4, &[a, b, c, d]) => Some(IpAddr::from([a, b, c, d])),
        (ae::IPV6, bytes) => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        (ae::LINK_LOCAL, bytes) => <[u8; 8]>::try_from(bytes).ok().map(|low| {
            let mut octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            octets[8..].copy_from_slice(&low);
            IpAddr::from(octets)
        }),
        _ => None,
    }
}

/// Encodes a host address in the encoding of [`encoding_of`]; returns its bytes and how many count.
pub(super) fn encode_address(address: Option<IpAddr>) -> ([u8; 16], usize) {
    let mut bytes = [0; 16];
    let len = match address {
        None => 0,
        Some(IpAddr::V4(v4)) => {
            bytes[..4].copy_from_slice(&v4.octets());
            4
        }
        Some(IpAddr::V6(v6)) if encoding_of(address) == ae::LINK_LOCAL => {
            bytes[..8].copy_from_slice(&v6.octets()[8..]);
            8
        }
        Some(IpAddr::V6(v6)) => {
            bytes = v6.octets();
            16
        }
    };
    (bytes, len)
}

/// Decodes a prefix from the octets its length needs, in the family of an encoding.
pub(super) fn decode_prefix(encoding: u8, len: u8, octets: &[u8]) -> Result<Prefix, PrefixError> {
    let needed = usize::from(len).div_ceil(8);
    let octets = octets.get(..needed).ok_or(PrefixError::Octets)?;
    let mut address = [0; 16];
    address.get_mut(..needed).ok_or(PrefixError::Length(len))?.copy_from_slice(octets);
    let [a, b, c, d, ..] = address;
    let address = match encoding {
        ae::IPV4 | ae::IPV4_VIA_IPV6 => IpAddr::from([a, b, c, d]),
        _ => IpAddr::from(address),
    };
    Prefix::new(address, len)
}
