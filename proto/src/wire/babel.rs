//! Babel packets (RFC 8966 §4, RFC 8967 §6): the packet frame, its TLVs and the state that a parser carries through
//! one packet.
//!
//! Reading goes in three steps, each total: [`Packet::parse`] finds body and trailer, [`Packet::body`] walks raw TLVs,
//! [`Tlv::parse`] makes one a value. [`Context`] holds what earlier TLVs of a packet mean to later ones (router-id,
//! next hop, default prefix). [`Writer`] is the same run backwards, with address compression.

mod context;
mod prefix;
mod tlv;
mod writer;

pub use context::{Announcement, Context};
pub use prefix::{Prefix, PrefixError};
pub use tlv::{Tlv, Update, kind, sub_kind};
pub use writer::{Full, Writer};

use core::cmp::Ordering;
use core::fmt;
use core::net::Ipv6Addr;

/// Multicast group of every Babel speaker on a link (RFC 8966 §4).
pub const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 6);
/// First byte of every packet.
pub const MAGIC: u8 = 42;
/// Second byte of every packet.
pub const VERSION: u8 = 2;
/// Magic, version, body length.
pub const HEADER_LEN: usize = 4;
/// Cost and metric that mean "unreachable" (RFC 8966 §3.5.2).
pub const INFINITY: u16 = 0xffff;

/// A sequence number modulo 2¹⁶ (RFC 8966 §3.2.1). Not `Ord`: the order is circular.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Seqno(pub u16);

impl Seqno {
    /// Whether this one comes after `other` on the circle.
    pub fn is_newer_than(self, other: Self) -> bool {
        self.compare(other) == Ordering::Greater
    }

    /// Order on the circle; two numbers exactly half a turn apart count as "less" both ways, as §3.2.1 has it.
    pub fn compare(self, other: Self) -> Ordering {
        match self.0.wrapping_sub(other.0) {
            0 => Ordering::Equal,
            1..0x8000 => Ordering::Greater,
            _ => Ordering::Less,
        }
    }

    /// The one after.
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// The one `n` further.
    pub fn plus(self, n: u16) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// Signed distance from `other` to this one, −32768 … 32767.
    pub fn distance_from(self, other: Self) -> i16 {
        self.0.wrapping_sub(other.0).cast_signed()
    }
}

impl fmt::Display for Seqno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Seqno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why bytes are no Babel packet or no TLV. Each names what the sender did wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Shorter than a packet header.
    Header {
        /// Length found.
        len: usize,
    },
    /// First byte is not 42.
    Magic(u8),
    /// Second byte is not 2.
    Version(u8),
    /// The header announces more body than there is.
    Body {
        /// Length announced.
        declared: usize,
        /// Bytes behind the header.
        available: usize,
    },
    /// A TLV reaches past the end of body or trailer, or has no length byte.
    Overrun {
        /// Its type.
        kind: u8,
    },
    /// A TLV is too short for its type.
    Short {
        /// Its type.
        kind: u8,
        /// Its length.
        len: usize,
    },
    /// A TLV is too long for its type: nonce, index or MAC longer than its RFC allows.
    Long {
        /// Its type.
        kind: u8,
        /// Its length.
        len: usize,
    },
    /// An address encoding that is unknown, or not for this TLV.
    AddressEncoding {
        /// Type of the TLV.
        kind: u8,
        /// The encoding.
        ae: u8,
    },
    /// A prefix that is no prefix.
    Prefix {
        /// Type of the TLV.
        kind: u8,
        /// What is wrong.
        error: PrefixError,
    },
    /// A reserved router-id: all zeros or all ones (RFC 8966 §4.1.3).
    RouterId,
    /// A sub-TLV reaches past its TLV, or has the wrong length.
    SubTlv {
        /// Type of the TLV.
        kind: u8,
        /// Type of the sub-TLV.
        sub: u8,
    },
    /// An unknown sub-TLV with the mandatory bit: the TLV is to be ignored (RFC 8966 §4.4).
    Mandatory {
        /// Type of the TLV.
        kind: u8,
        /// Type of the sub-TLV.
        sub: u8,
    },
    /// An update omits octets, but no earlier one set a default prefix that long.
    NoDefaultPrefix,
    /// An update without router-id, and no earlier TLV set one.
    NoRouterId,
    /// An update without a next hop TLV before it, of another family than the packet's.
    NoNextHop,
    /// A wildcard update that is no retraction (RFC 8966 §4.6.9).
    WildcardUpdate,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Header { len } => write!(f, "packet of {len} bytes, a header takes {HEADER_LEN}"),
            Self::Magic(byte) => write!(f, "magic {byte}, expected {MAGIC}"),
            Self::Version(byte) => write!(f, "version {byte}, expected {VERSION}"),
            Self::Body { declared, available } => write!(f, "body of {declared} bytes announced, {available} present"),
            Self::Overrun { kind } => write!(f, "TLV {kind} reaches past the end"),
            Self::Short { kind, len } => write!(f, "TLV {kind} of {len} bytes is too short"),
            Self::Long { kind, len } => write!(f, "TLV {kind} of {len} bytes is too long"),
            Self::AddressEncoding { kind, ae } => write!(f, "TLV {kind} with address encoding {ae}"),
            Self::Prefix { kind, error } => write!(f, "TLV {kind}: {error}"),
            Self::RouterId => f.write_str("router-id of all zeros or all ones"),
            Self::SubTlv { kind, sub } => write!(f, "TLV {kind}: malformed sub-TLV {sub}"),
            Self::Mandatory { kind, sub } => write!(f, "TLV {kind}: unknown mandatory sub-TLV {sub}"),
            Self::NoDefaultPrefix => f.write_str("update omits octets of a default prefix that was not set"),
            Self::NoRouterId => f.write_str("update without a router-id"),
            Self::NoNextHop => f.write_str("update without a next hop"),
            Self::WildcardUpdate => f.write_str("wildcard update with a finite metric"),
        }
    }
}

impl core::error::Error for Error {}

/// A packet, split but not yet read.
///
/// ```text
///  0        1        2                 4
/// | magic  | version | body length     | body (TLVs) ... | trailer (TLVs: MAC) ...
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    signed: &'a [u8],
    trailer: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Splits a UDP payload into header with body, and trailer.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Error> {
        let &[magic, version, high, low, ..] = datagram else {
            return Err(Error::Header { len: datagram.len() });
        };
        if magic != MAGIC {
            return Err(Error::Magic(magic));
        }
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let declared = usize::from(u16::from_be_bytes([high, low]));
        let (signed, trailer) = datagram
            .split_at_checked(HEADER_LEN + declared)
            .ok_or(Error::Body { declared, available: datagram.len() - HEADER_LEN })?;
        Ok(Self { signed, trailer })
    }

    /// TLVs of the body.
    pub fn body(&self) -> Tlvs<'a> {
        Tlvs { rest: self.signed.get(HEADER_LEN..).unwrap_or_default() }
    }

    /// TLVs behind the body: MACs, and nothing else that counts (RFC 8966 §4.2).
    pub fn trailer(&self) -> Tlvs<'a> {
        Tlvs { rest: self.trailer }
    }

    /// What a MAC covers besides the pseudo-header: header and body (RFC 8967 §4.1).
    pub fn signed(&self) -> &'a [u8] {
        self.signed
    }
}

/// One TLV, its body uninterpreted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawTlv<'a> {
    /// Type.
    pub kind: u8,
    /// Body; empty for Pad1.
    pub body: &'a [u8],
}

/// Walks TLVs; ends after the first error, because nothing behind it can be found.
#[derive(Clone, Debug)]
pub struct Tlvs<'a> {
    rest: &'a [u8],
}

impl<'a> Tlvs<'a> {
    /// Over a run of TLVs, or of sub-TLVs: both have the same frame (RFC 8966 §4.3, §4.4).
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<RawTlv<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, rest) = self.rest.split_first()?;
        if kind == kind::PAD1 {
            self.rest = rest;
            return Some(Ok(RawTlv { kind, body: &[] }));
        }
        let split = rest.split_first().and_then(|(&len, rest)| rest.split_at_checked(usize::from(len)));
        match split {
            Some((body, rest)) => {
                self.rest = rest;
                Some(Ok(RawTlv { kind, body }))
            }
            None => {
                self.rest = &[];
                Some(Err(Error::Overrun { kind }))
            }
        }
    }
}

#[cfg(test)]
mod tests;
