//! GEM TLVs: the objects that gateways flood through the Babel domain, and how two neighbours compare what they have.
//!
//! They are Babel TLVs of experimental types (RFC 8966 §6), which other routers skip. An [`Object`] is signed by its
//! origin over everything before the signature, behind [`SIGNATURE_LABEL`]. Objects are compared by digest: the table
//! is a tree of sixteen-fold branching over the hash of object names; a [`Digest`] stands for one subtree, a
//! [`Summary`] lists a small one, a [`Request`] asks for objects by name.

pub mod kmg;
pub mod lease;
pub mod vote;

use crate::id::{Epoch, GROUP_LEN, Group, GroupError, KeyId, NodeId};
use core::fmt;

/// Type of GEM-OBJECT.
pub const OBJECT: u8 = 224;
/// Type of GEM-DIGEST.
pub const DIGEST: u8 = 225;
/// Type of GEM-SUMMARY.
pub const SUMMARY: u8 = 226;
/// Type of GEM-REQUEST.
pub const REQUEST: u8 = 227;

/// What a signature covers begins with this, so that no signature made for another purpose passes here.
pub const SIGNATURE_LABEL: &[u8] = b"gemcast1 object";
/// Longest TLV body.
pub const MAX_BODY_LEN: usize = 255;
/// Object without payload and signature.
pub const HEADER_LEN: usize = 30;
/// Ed25519 signature.
pub const SIGNATURE_LEN: usize = 64;
/// Longest payload of an object in one TLV.
pub const MAX_PAYLOAD_LEN: usize = MAX_BODY_LEN - HEADER_LEN - SIGNATURE_LEN;
/// Longest name of a node.
pub const MAX_NAME_LEN: usize = 63;
/// Name and version in a summary or request.
pub const ENTRY_LEN: usize = 25;
/// Most entries in one summary.
pub const MAX_SUMMARY_ENTRIES: usize = (MAX_BODY_LEN - RANGE_LEN) / ENTRY_LEN;
/// Most entries in one request.
pub const MAX_REQUEST_ENTRIES: usize = MAX_BODY_LEN / ENTRY_LEN;

/// Depth and prefix of a subtree.
const RANGE_LEN: usize = 9;

// A NODE with the longest name and a SEK fit into one TLV.
const _: () = assert!(NodePayload::MAX_LEN <= MAX_PAYLOAD_LEN && SekPayload::LEN <= MAX_PAYLOAD_LEN);

/// Why bytes are no GEM TLV. Each names what the sender did wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Wrong length for what it is.
    Length {
        /// What it should be.
        what: &'static str,
        /// Length found.
        len: usize,
    },
    /// An unknown flag of an object; its meaning might forbid accepting it.
    Flags(u8),
    /// A node name that is no UTF-8, or longer than its object.
    Name,
    /// A node name with characters that are not shown as themselves; see [`is_plain_name`].
    NameCharacters,
    /// A group that is none.
    Group(GroupError),
    /// A key id that never names a key.
    KeyId,
    /// A subtree deeper than the tree, or a prefix with bits past its depth.
    Range,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { what, len } => write!(f, "{what} of {len} bytes"),
            Self::Flags(flags) => write!(f, "unknown object flags {flags:#04x}"),
            Self::Name => f.write_str("node name that is no UTF-8 or does not fit its object"),
            Self::NameCharacters => f.write_str("node name with control or invisible characters"),
            Self::Group(error) => write!(f, "group: {error}"),
            Self::KeyId => f.write_str("key id 0 or ffffffff, which never name a key"),
            Self::Range => f.write_str("subtree deeper than the tree, or prefix bits past its depth"),
        }
    }
}

impl core::error::Error for Error {}

/// Kind of an object. Unknown ones are verified, stored and passed on like any other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKind(pub u8);

impl ObjectKind {
    /// A node's public keys and name.
    pub const NODE: Self = Self(1);
    /// A source encryption key, wrapped.
    pub const SEK: Self = Self(2);
    /// A group key's epoch, of the administrator.
    pub const GAK_PACKAGE: Self = Self(3);
    /// A group key encrypted to one member, of the administrator.
    pub const GAK_SHARE: Self = Self(4);
    /// A node that is cut off, of the administrator.
    pub const REVOKE: Self = Self(5);
    /// A node that is listed, of the administrator.
    pub const ROSTER: Self = Self(6);
    /// The node that takes the origin's place.
    pub const SUCCESSOR: Self = Self(7);
    /// A gateway's candidacy on a LAN that several gateways share.
    pub const LEASE: Self = Self(8);
    /// A vote to ban a node.
    pub const BAN_VOTE: Self = Self(9);

    /// Whether only the administrator's objects of this kind mean something.
    pub fn is_administrative(self) -> bool {
        matches!(self, Self::GAK_PACKAGE | Self::GAK_SHARE | Self::REVOKE | Self::ROSTER)
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NODE => f.write_str("NODE"),
            Self::SEK => f.write_str("SEK"),
            Self::GAK_PACKAGE => f.write_str("GAK-PACKAGE"),
            Self::GAK_SHARE => f.write_str("GAK-SHARE"),
            Self::REVOKE => f.write_str("REVOKE"),
            Self::ROSTER => f.write_str("ROSTER"),
            Self::SUCCESSOR => f.write_str("SUCCESSOR"),
            Self::LEASE => f.write_str("LEASE"),
            Self::BAN_VOTE => f.write_str("BAN-VOTE"),
            Self(other) => write!(f, "kind {other}"),
        }
    }
}

impl fmt::Debug for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What names an object: the versions under one name replace each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectName {
    /// Node that made and signed it. All zeros, in a request, stands for any.
    pub origin: NodeId,
    /// Kind.
    pub kind: ObjectKind,
    /// Number among the origin's objects of that kind; the key id for SEKs, 0 for the NODE.
    pub id: u64,
}

impl ObjectName {
    /// Length on the wire.
    pub const LEN: usize = 17;
    /// The first name in order.
    pub const MIN: Self = Self { origin: NodeId([0; 8]), kind: ObjectKind(0), id: 0 };
    /// The last name in order.
    pub const MAX: Self = Self { origin: NodeId([0xff; 8]), kind: ObjectKind(0xff), id: u64::MAX };

    /// Origin, kind, id.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.origin.0);
        bytes[8] = self.kind.0;
        bytes[9..].copy_from_slice(&self.id.to_be_bytes());
        bytes
    }
}

/// A name and a version: "I have" in a summary, "I need at least" in a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// The name.
    pub name: ObjectName,
    /// The version.
    pub version: u64,
}

impl Entry {
    fn from_bytes(bytes: &[u8; ENTRY_LEN]) -> Self {
        let (name, version) = bytes.split_at(ObjectName::LEN);
        let (origin, name) = name.split_at(8);
        Self {
            name: ObjectName { origin: NodeId(array(origin)), kind: ObjectKind(name[0]), id: u64_of(&name[1..]) },
            version: u64_of(version),
        }
    }

    fn emit(&self, out: &mut [u8]) {
        out[..ObjectName::LEN].copy_from_slice(&self.name.to_bytes());
        out[ObjectName::LEN..].copy_from_slice(&self.version.to_be_bytes());
    }
}

/// Head of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObjectHeader {
    /// The object is withdrawn; its payload does not count.
    pub tombstone: bool,
    /// Its name.
    pub name: ObjectName,
    /// Its version; the highest wins.
    pub version: u64,
    /// End of validity, Unix seconds.
    pub not_after: u32,
}

/// Withdrawn.
const FLAG_TOMBSTONE: u8 = 0x01;

/// A GEM-OBJECT, its signature not yet verified.
///
/// ```text
/// 0       1       2            10          18           26            30
/// | kind  | flags | origin (8) | id (8)    | version (8)| not_after 4 | payload ... | signature (64) |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Object<'a> {
    /// Its head.
    pub header: ObjectHeader,
    /// Kind-specific content.
    pub payload: &'a [u8],
    /// Everything the signature covers besides the label.
    pub signed: &'a [u8],
    /// Ed25519 signature of the origin.
    pub signature: &'a [u8; SIGNATURE_LEN],
}

impl<'a> Object<'a> {
    /// Reads the body of a GEM-OBJECT.
    pub fn parse(body: &'a [u8]) -> Result<Self, Error> {
        let length = Error::Length { what: "object", len: body.len() };
        let (signed, signature) = body.split_last_chunk::<SIGNATURE_LEN>().ok_or(length)?;
        let (head, payload) = signed.split_first_chunk::<HEADER_LEN>().ok_or(length)?;
        if payload.len() > MAX_PAYLOAD_LEN {
            return Err(length);
        }
        let flags = head[1];
        if flags & !FLAG_TOMBSTONE != 0 {
            return Err(Error::Flags(flags));
        }
        let header = ObjectHeader {
            tombstone: flags & FLAG_TOMBSTONE != 0,
            name: ObjectName {
                origin: NodeId(array(&head[2..10])),
                kind: ObjectKind(head[0]),
                id: u64_of(&head[10..18]),
            },
            version: u64_of(&head[18..26]),
            not_after: u32::from_be_bytes(array(&head[26..30])),
        };
        Ok(Self { header, payload, signed, signature })
    }
}

impl ObjectHeader {
    /// Writes the part to be signed, head and payload; returns its length. The signature goes right behind.
    ///
    /// # Panics
    /// When the payload is longer than [`MAX_PAYLOAD_LEN`].
    pub fn emit(&self, payload: &[u8], out: &mut [u8; MAX_BODY_LEN]) -> usize {
        assert!(payload.len() <= MAX_PAYLOAD_LEN, "a payload fits its TLV");
        out[0] = self.name.kind.0;
        out[1] = if self.tombstone { FLAG_TOMBSTONE } else { 0 };
        out[2..10].copy_from_slice(&self.name.origin.0);
        out[10..18].copy_from_slice(&self.name.id.to_be_bytes());
        out[18..26].copy_from_slice(&self.version.to_be_bytes());
        out[26..30].copy_from_slice(&self.not_after.to_be_bytes());
        out[HEADER_LEN..HEADER_LEN + payload.len()].copy_from_slice(payload);
        HEADER_LEN + payload.len()
    }
}

/// Whether a name is shown as it is wherever it is printed: without control characters, which could hide or fake what
/// stands around them, without characters that have no width or turn the direction of writing, and with no other white
/// space than plain spaces.
pub fn is_plain_name(name: &str) -> bool {
    let is_invisible = |c: char| {
        matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    !name.chars().any(|c| c.is_control() || (c.is_whitespace() && c != ' ') || is_invisible(c))
}

/// Payload of a NODE object.
///
/// ```text
/// | Ed25519 public key (32) | X25519 public key (32) | name length (1) | name |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodePayload<'a> {
    /// Key that signs the node's objects; the node id is its hash.
    pub signing_key: [u8; 32],
    /// Key that shares of group keys are encrypted to.
    pub agreement_key: [u8; 32],
    /// Name shown to operators.
    pub name: &'a str,
}

impl<'a> NodePayload<'a> {
    /// Longest payload.
    pub const MAX_LEN: usize = 65 + MAX_NAME_LEN;

    /// Reads a payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Error> {
        let length = Error::Length { what: "NODE payload", len: payload.len() };
        let (&signing_key, rest) = payload.split_first_chunk::<32>().ok_or(length)?;
        let (&agreement_key, rest) = rest.split_first_chunk::<32>().ok_or(length)?;
        let (&len, name) = rest.split_first().ok_or(length)?;
        if usize::from(len) != name.len() || name.len() > MAX_NAME_LEN {
            return Err(Error::Name);
        }
        let name = core::str::from_utf8(name).map_err(|_| Error::Name)?;
        if !is_plain_name(name) {
            return Err(Error::NameCharacters);
        }
        Ok(Self { signing_key, agreement_key, name })
    }

    /// Writes the payload; returns its length.
    ///
    /// # Panics
    /// When the name is longer than [`MAX_NAME_LEN`].
    pub fn emit(&self, out: &mut [u8; 65 + MAX_NAME_LEN]) -> usize {
        assert!(self.name.len() <= MAX_NAME_LEN, "a node name has at most 63 bytes");
        out[..32].copy_from_slice(&self.signing_key);
        out[32..64].copy_from_slice(&self.agreement_key);
        out[64] = u8::try_from(self.name.len()).expect("checked above");
        out[65..65 + self.name.len()].copy_from_slice(self.name.as_bytes());
        65 + self.name.len()
    }
}

/// Payload of a SEK object.
///
/// ```text
/// 0            17              19         23        24               32          48
/// | group (17) | gak epoch (2) | key id 4 | suite 1 | not before (8) | salt (16) | wrapped SEK (48) |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SekPayload {
    /// Group it is for.
    pub group: Group,
    /// GAK epoch it is bound to.
    pub epoch: Epoch,
    /// Its id.
    pub key_id: KeyId,
    /// Its AEAD, as on the wire: one that a relay does not know must not keep it from relaying.
    pub suite: u8,
    /// Start of use, Unix milliseconds.
    pub not_before_ms: u64,
    /// Makes the wrap key one of its own.
    pub salt: [u8; 16],
    /// SEK encrypted under the wrap key, with AEAD tag.
    pub wrapped: [u8; 48],
}

impl SekPayload {
    /// Length of the payload.
    pub const LEN: usize = GROUP_LEN + 2 + 4 + 1 + 8 + 16 + 48;

    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let payload: &[u8; Self::LEN] =
            payload.try_into().map_err(|_| Error::Length { what: "SEK payload", len: payload.len() })?;
        let key_id = KeyId(u32::from_be_bytes(array(&payload[19..23])));
        if !key_id.is_valid() {
            return Err(Error::KeyId);
        }
        Ok(Self {
            group: Group::from_bytes(&array(&payload[..17])).map_err(Error::Group)?,
            epoch: Epoch(u16::from_be_bytes(array(&payload[17..19]))),
            key_id,
            suite: payload[23],
            not_before_ms: u64_of(&payload[24..32]),
            salt: array(&payload[32..48]),
            wrapped: array(&payload[48..]),
        })
    }

    /// The payload.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..17].copy_from_slice(&self.group.to_bytes());
        out[17..19].copy_from_slice(&self.epoch.0.to_be_bytes());
        out[19..23].copy_from_slice(&self.key_id.0.to_be_bytes());
        out[23] = self.suite;
        out[24..32].copy_from_slice(&self.not_before_ms.to_be_bytes());
        out[32..48].copy_from_slice(&self.salt);
        out[48..].copy_from_slice(&self.wrapped);
        out
    }
}

/// A subtree of the table: the objects whose name hash starts with `prefix`'s first `depth` nibbles.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Range {
    depth: u8,
    prefix: u64,
}

impl Range {
    /// The whole table.
    pub const WHOLE: Self = Self { depth: 0, prefix: 0 };
    /// Depth of the tree: nibbles of a name hash.
    pub const MAX_DEPTH: u8 = 16;

    /// The sixteen subtrees below; none at the bottom.
    pub fn children(self) -> impl Iterator<Item = Self> {
        let shift = 60u32.checked_sub(4 * u32::from(self.depth));
        shift.into_iter().flat_map(move |shift| {
            (0..16u64).map(move |nibble| Self { depth: self.depth + 1, prefix: self.prefix | (nibble << shift) })
        })
    }

    /// First and last name hash in it.
    pub fn bounds(self) -> core::ops::RangeInclusive<u64> {
        self.prefix..=self.prefix | Self::mask_past(self.depth)
    }

    fn mask_past(depth: u8) -> u64 {
        u64::MAX.checked_shr(4 * u32::from(depth)).unwrap_or(0)
    }

    fn from_bytes(bytes: &[u8; RANGE_LEN]) -> Result<Self, Error> {
        let (depth, prefix) = (bytes[0], u64_of(&bytes[1..]));
        if depth > Self::MAX_DEPTH || prefix & Self::mask_past(depth) != 0 {
            return Err(Error::Range);
        }
        Ok(Self { depth, prefix })
    }

    fn to_bytes(self) -> [u8; RANGE_LEN] {
        let mut bytes = [self.depth; RANGE_LEN];
        bytes[1..].copy_from_slice(&self.prefix.to_be_bytes());
        bytes
    }
}

/// A GEM-DIGEST: what the sender has in a subtree.
///
/// ```text
/// | depth (1) | prefix (8) | count (4) | sum of object hashes (16) |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest {
    /// The subtree.
    pub range: Range,
    /// Objects in it.
    pub count: u32,
    /// Sum of their hashes modulo 2¹²⁸: free of order, updated by addition and subtraction.
    pub sum: u128,
}

impl Digest {
    /// Length of the body.
    pub const LEN: usize = RANGE_LEN + 4 + 16;

    /// Reads the body of a GEM-DIGEST.
    pub fn parse(body: &[u8]) -> Result<Self, Error> {
        let body: &[u8; Self::LEN] = body.try_into().map_err(|_| Error::Length { what: "digest", len: body.len() })?;
        Ok(Self {
            range: Range::from_bytes(&array(&body[..9]))?,
            count: u32::from_be_bytes(array(&body[9..13])),
            sum: u128::from_be_bytes(array(&body[13..])),
        })
    }

    /// The body.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..9].copy_from_slice(&self.range.to_bytes());
        out[9..13].copy_from_slice(&self.count.to_be_bytes());
        out[13..].copy_from_slice(&self.sum.to_be_bytes());
        out
    }
}

/// A GEM-SUMMARY: everything the sender has in a small subtree.
///
/// ```text
/// | depth (1) | prefix (8) | { origin (8), kind (1), id (8), version (8) } × n |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary<'a> {
    /// The subtree.
    pub range: Range,
    entries: &'a [[u8; ENTRY_LEN]],
}

impl<'a> Summary<'a> {
    /// Reads the body of a GEM-SUMMARY.
    pub fn parse(body: &'a [u8]) -> Result<Self, Error> {
        let length = Error::Length { what: "summary", len: body.len() };
        let (range, entries) = body.split_first_chunk::<RANGE_LEN>().ok_or(length)?;
        let (entries, []) = entries.as_chunks::<ENTRY_LEN>() else { return Err(length) };
        Ok(Self { range: Range::from_bytes(range)?, entries })
    }

    /// What it lists.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + 'a {
        self.entries.iter().map(Entry::from_bytes)
    }

    /// Writes a summary of at most [`MAX_SUMMARY_ENTRIES`] entries, further ones are left out; returns its length.
    pub fn emit(range: Range, entries: impl IntoIterator<Item = Entry>, out: &mut [u8; MAX_BODY_LEN]) -> usize {
        out[..RANGE_LEN].copy_from_slice(&range.to_bytes());
        RANGE_LEN + emit_entries(entries, &mut out[RANGE_LEN..])
    }
}

/// A GEM-REQUEST: objects the sender needs, each in at least this version; none means everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    entries: &'a [[u8; ENTRY_LEN]],
}

impl<'a> Request<'a> {
    /// Reads the body of a GEM-REQUEST.
    pub fn parse(body: &'a [u8]) -> Result<Self, Error> {
        let (entries, []) = body.as_chunks::<ENTRY_LEN>() else {
            return Err(Error::Length { what: "request", len: body.len() });
        };
        Ok(Self { entries })
    }

    /// Whether it asks for everything.
    pub fn is_wildcard(&self) -> bool {
        self.entries.is_empty()
    }

    /// What it asks for.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + 'a {
        self.entries.iter().map(Entry::from_bytes)
    }

    /// Writes a request of at most [`MAX_REQUEST_ENTRIES`] entries, further ones are left out; returns its length.
    pub fn emit(entries: impl IntoIterator<Item = Entry>, out: &mut [u8; MAX_BODY_LEN]) -> usize {
        emit_entries(entries, out)
    }
}

fn emit_entries(entries: impl IntoIterator<Item = Entry>, out: &mut [u8]) -> usize {
    let mut len = 0;
    for (entry, room) in entries.into_iter().zip(out.chunks_exact_mut(ENTRY_LEN)) {
        entry.emit(room);
        len += ENTRY_LEN;
    }
    len
}

/// `N` bytes as an array; callers cut the slice to that length.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("callers cut the slice to length")
}

fn u64_of(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(array(bytes))
}

#[cfg(test)]
mod tests;
