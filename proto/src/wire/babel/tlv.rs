//! The TLVs of RFC 8966 §4.6, with those of RFC 8967 (MAC), RFC 9079 (source-specific), RFC 9229 (IPv4 via IPv6) and
//! RFC 9616 (delay).

use super::prefix::{address_len, ae, decode_address, decode_prefix, encode_address, encoding_of};
use super::{Error, Prefix, PrefixError, RawTlv, Seqno, Tlvs};
use crate::id::NodeId;
use core::net::IpAddr;

/// TLV types.
pub mod kind {
    /// One byte of padding, without length.
    pub const PAD1: u8 = 0;
    /// Padding.
    pub const PADN: u8 = 1;
    /// Acknowledgement request.
    pub const ACK_REQUEST: u8 = 2;
    /// Acknowledgement.
    pub const ACK: u8 = 3;
    /// Hello.
    pub const HELLO: u8 = 4;
    /// I heard you.
    pub const IHU: u8 = 5;
    /// Router-id of the updates behind it.
    pub const ROUTER_ID: u8 = 6;
    /// Next hop of the updates behind it.
    pub const NEXT_HOP: u8 = 7;
    /// Route update.
    pub const UPDATE: u8 = 8;
    /// Route request.
    pub const ROUTE_REQUEST: u8 = 9;
    /// Seqno request.
    pub const SEQNO_REQUEST: u8 = 10;
    /// Message authentication code (RFC 8967), in the trailer.
    pub const MAC: u8 = 16;
    /// Packet counter (RFC 8967).
    pub const PC: u8 = 17;
    /// Challenge request (RFC 8967).
    pub const CHALLENGE_REQUEST: u8 = 18;
    /// Challenge reply (RFC 8967).
    pub const CHALLENGE_REPLY: u8 = 19;
}

/// Sub-TLV types. From 128 on they are mandatory: who does not know one ignores its TLV (RFC 8966 §4.4).
pub mod sub_kind {
    /// One byte of padding.
    pub const PAD1: u8 = 0;
    /// Padding.
    pub const PADN: u8 = 1;
    /// Timestamps of a Hello or IHU (RFC 9616).
    pub const TIMESTAMP: u8 = 3;
    /// gemcast's own, of the experimental range: in an IHU sent by unicast, "your multicast does not arrive here". Empty.
    pub const MULTICAST_LOST: u8 = 112;
    /// Source prefix of a route or request (RFC 9079).
    pub const SOURCE_PREFIX: u8 = 128;
}

/// Flag of a Hello sent to one neighbour (RFC 8966 §4.6.5).
const HELLO_UNICAST: u16 = 0x8000;
/// Update sets the default prefix.
const UPDATE_PREFIX: u8 = 0x80;
/// Update sets the router-id from its prefix.
const UPDATE_ROUTER_ID: u8 = 0x40;
/// Longest nonce of a challenge (RFC 8967 §6.3).
const MAX_NONCE_LEN: usize = 192;
/// Longest index of a packet counter (RFC 8967 §6.2).
const MAX_INDEX_LEN: usize = 32;

/// A TLV as a value. Intervals are centiseconds, as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tlv<'a> {
    /// One byte to skip.
    Pad1,
    /// Bytes to skip.
    PadN {
        /// Bytes behind type and length.
        len: u8,
    },
    /// Asks for an acknowledgement.
    AckRequest {
        /// To be repeated in the answer.
        opaque: u16,
        /// Time in which it must come.
        interval: u16,
    },
    /// Acknowledgement.
    Ack {
        /// From the request.
        opaque: u16,
    },
    /// Shows that the sender is alive.
    Hello {
        /// Of the unicast series to one neighbour, not the multicast one of the interface.
        unicast: bool,
        /// Counts Hellos of the series.
        seqno: Seqno,
        /// Bound on the time to the next one; 0 for an unscheduled one.
        interval: u16,
        /// When it was sent, microseconds on the sender's clock (RFC 9616).
        sent_us: Option<u32>,
    },
    /// Tells a neighbour how well it is heard.
    Ihu {
        /// Address of that neighbour; `None` in a packet to it alone.
        address: Option<IpAddr>,
        /// Cost of receiving from it.
        rxcost: u16,
        /// Bound on the time to the next one.
        interval: u16,
        /// The neighbour's last Hello: when it says it was sent, and when it arrived here (RFC 9616).
        echo_us: Option<(u32, u32)>,
        /// The neighbour's multicast does not arrive: it is to send by unicast, too.
        multicast_lost: bool,
    },
    /// Router-id of the updates behind it.
    RouterId(NodeId),
    /// Next hop of the updates behind it, in its family.
    NextHop(IpAddr),
    /// Announces or retracts a route.
    Update(Update<'a>),
    /// Asks for an update.
    RouteRequest {
        /// Of this prefix; `None` asks for the whole table.
        prefix: Option<Prefix>,
        /// Of routes from this source prefix (RFC 9079).
        source: Option<Prefix>,
        /// The prefix was encoded as IPv4-via-IPv6 (RFC 9229), which means the same.
        via_v6: bool,
    },
    /// Asks for an update with a seqno at least this new.
    SeqnoRequest {
        /// The prefix.
        prefix: Prefix,
        /// Of routes from this source prefix (RFC 9079).
        source: Option<Prefix>,
        /// The prefix was encoded as IPv4-via-IPv6 (RFC 9229), which means the same.
        via_v6: bool,
        /// The seqno.
        seqno: Seqno,
        /// How many times it may be forwarded.
        hop_count: u8,
        /// Where the route must come from.
        router_id: NodeId,
    },
    /// A MAC (RFC 8967), in the trailer.
    Mac(&'a [u8]),
    /// Packet counter (RFC 8967).
    Pc {
        /// Counts packets under one index.
        counter: u32,
        /// Names the sender's incarnation.
        index: &'a [u8],
    },
    /// Asks for a proof of freshness (RFC 8967).
    ChallengeRequest(&'a [u8]),
    /// The proof: the nonce of the request.
    ChallengeReply(&'a [u8]),
    /// A type that this codec leaves alone: GEM TLVs, and whatever others put into their packets.
    Other(RawTlv<'a>),
}

/// A route update as it is on the wire; [`super::Context::update`] makes it an announcement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Update<'a> {
    /// Address encoding.
    pub ae: u8,
    /// Whether it sets the default prefix of its encoding.
    pub sets_prefix: bool,
    /// Whether it sets the router-id, from the lower half of its prefix.
    pub sets_router_id: bool,
    /// Prefix length.
    pub plen: u8,
    /// Leading octets taken from the default prefix.
    pub omitted: u8,
    /// Bound on the time to the next update of this route, centiseconds.
    pub interval: u16,
    /// Seqno of the source.
    pub seqno: Seqno,
    /// Metric.
    pub metric: u16,
    /// Octets of the prefix behind the omitted ones.
    pub octets: &'a [u8],
    /// Source prefix (RFC 9079).
    pub source: Option<Prefix>,
    /// An unknown mandatory sub-TLV: the update sets parser state and is otherwise ignored (RFC 8966 §4.6.9).
    pub mandatory: Option<u8>,
}

/// Reads the body of one TLV front to back.
struct Reader<'a> {
    kind: u8,
    len: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(raw: RawTlv<'a>) -> Self {
        Self { kind: raw.kind, len: raw.body.len(), rest: raw.body }
    }

    fn bytes(&mut self, n: usize) -> Result<&'a [u8], Error> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(Error::Short { kind: self.kind, len: self.len })?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("bytes(N) has N bytes"))
    }

    fn u8(&mut self) -> Result<u8, Error> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn encoding(&self, ae: u8, allowed: &[u8]) -> Result<usize, Error> {
        address_len(ae).filter(|_| allowed.contains(&ae)).ok_or(Error::AddressEncoding { kind: self.kind, ae })
    }

    fn prefix(&mut self, ae: u8, plen: u8) -> Result<Prefix, Error> {
        let kind = self.kind;
        let octets = self.bytes(usize::from(plen).div_ceil(8))?;
        decode_prefix(ae, plen, octets).map_err(|error| Error::Prefix { kind, error })
    }

    fn router_id(&mut self) -> Result<NodeId, Error> {
        let id = NodeId(self.array()?);
        // RFC 8966 §4.1.3: MUST NOT consist of either all binary zeroes or all binary ones.
        if id.0 == [0; 8] || id.0 == [0xff; 8] { Err(Error::RouterId) } else { Ok(id) }
    }

    /// What is left is sub-TLVs; the ones this codec knows, and the first unknown mandatory one.
    fn sub_tlvs(self, ae: u8) -> Result<SubTlvs<'a>, Error> {
        let kind = self.kind;
        let mut found = SubTlvs { timestamp: None, multicast_lost: false, source: None, mandatory: None };
        for sub in Tlvs::new(self.rest) {
            let sub = sub.map_err(|_| Error::SubTlv { kind, sub: 0 })?;
            let malformed = Error::SubTlv { kind, sub: sub.kind };
            match sub.kind {
                sub_kind::TIMESTAMP => found.timestamp = Some(sub.body),
                sub_kind::MULTICAST_LOST => found.multicast_lost = true,
                sub_kind::SOURCE_PREFIX if matches!(ae, ae::IPV4 | ae::IPV6 | ae::IPV4_VIA_IPV6) => {
                    let (&plen, octets) = sub.body.split_first().ok_or(malformed)?;
                    // RFC 9079 §7.1: a source prefix length of 0 is no source prefix and makes the TLV ignored.
                    if plen == 0 || found.source.is_some() {
                        return Err(malformed);
                    }
                    found.source = Some(decode_prefix(ae, plen, octets).map_err(|_| malformed)?);
                }
                other if other >= 128 => {
                    found.mandatory.get_or_insert(other);
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

struct SubTlvs<'a> {
    timestamp: Option<&'a [u8]>,
    multicast_lost: bool,
    source: Option<Prefix>,
    mandatory: Option<u8>,
}

impl SubTlvs<'_> {
    /// A TLV with an unknown mandatory sub-TLV is ignored as a whole.
    fn known(self, kind: u8) -> Result<Self, Error> {
        match self.mandatory {
            Some(sub) => Err(Error::Mandatory { kind, sub }),
            None => Ok(self),
        }
    }

    /// The first `N` timestamps; a sub-TLV that is too short is ignored (RFC 9616 §4).
    fn timestamps<const N: usize>(&self) -> Option<[u32; N]> {
        let mut stamps = [0; N];
        for (stamp, bytes) in stamps.iter_mut().zip(self.timestamp?.get(..4 * N)?.chunks_exact(4)) {
            *stamp = u32::from_be_bytes(bytes.try_into().expect("chunks of 4"));
        }
        Some(stamps)
    }
}

impl<'a> Tlv<'a> {
    /// Reads one TLV.
    pub fn parse(raw: RawTlv<'a>) -> Result<Self, Error> {
        let kind = raw.kind;
        let mut reader = Reader::new(raw);
        Ok(match kind {
            kind::PAD1 => Self::Pad1,
            kind::PADN => Self::PadN { len: u8::try_from(raw.body.len()).map_err(|_| Error::Overrun { kind })? },
            kind::ACK_REQUEST => {
                reader.u16()?; // reserved
                let (opaque, interval) = (reader.u16()?, reader.u16()?);
                reader.sub_tlvs(ae::WILDCARD)?.known(kind)?;
                Self::AckRequest { opaque, interval }
            }
            kind::ACK => {
                let opaque = reader.u16()?;
                reader.sub_tlvs(ae::WILDCARD)?.known(kind)?;
                Self::Ack { opaque }
            }
            kind::HELLO => {
                let (flags, seqno, interval) = (reader.u16()?, Seqno(reader.u16()?), reader.u16()?);
                let subs = reader.sub_tlvs(ae::WILDCARD)?.known(kind)?;
                let sent_us = subs.timestamps().map(|[sent]| sent);
                Self::Hello { unicast: flags & HELLO_UNICAST != 0, seqno, interval, sent_us }
            }
            kind::IHU => {
                let ae = reader.u8()?;
                reader.u8()?; // reserved
                let (rxcost, interval) = (reader.u16()?, reader.u16()?);
                let len = reader.encoding(ae, &[ae::WILDCARD, ae::IPV4, ae::IPV6, ae::LINK_LOCAL])?;
                let address = decode_address(ae, reader.bytes(len)?);
                let subs = reader.sub_tlvs(ae::WILDCARD)?.known(kind)?;
                let echo_us = subs.timestamps().map(|[origin, received]| (origin, received));
                Self::Ihu { address, rxcost, interval, echo_us, multicast_lost: subs.multicast_lost }
            }
            kind::ROUTER_ID => {
                reader.u16()?; // reserved
                let id = reader.router_id()?;
                reader.sub_tlvs(ae::WILDCARD)?.known(kind)?;
                Self::RouterId(id)
            }
            kind::NEXT_HOP => {
                let ae = reader.u8()?;
                reader.u8()?; // reserved
                let len = reader.encoding(ae, &[ae::IPV4, ae::IPV6, ae::LINK_LOCAL])?;
                let address = decode_address(ae, reader.bytes(len)?);
                reader.sub_tlvs(ae::WILDCARD)?.known(kind)?;
                Self::NextHop(address.ok_or(Error::AddressEncoding { kind, ae })?)
            }
            kind::UPDATE => Self::Update(parse_update(reader)?),
            kind::ROUTE_REQUEST => {
                let (ae, plen) = (reader.u8()?, reader.u8()?);
                reader.encoding(ae, &[ae::WILDCARD, ae::IPV4, ae::IPV6, ae::IPV4_VIA_IPV6])?;
                let prefix = match ae {
                    // RFC 8966 §4.6.10: a wildcard has prefix length 0, and is ignored otherwise.
                    ae::WILDCARD if plen != 0 => {
                        return Err(Error::Prefix { kind, error: PrefixError::Length(plen) });
                    }
                    ae::WILDCARD => None,
                    _ => Some(reader.prefix(ae, plen)?),
                };
                let source = reader.sub_tlvs(ae)?.known(kind)?.source;
                Self::RouteRequest { prefix, source, via_v6: ae == ae::IPV4_VIA_IPV6 }
            }
            kind::SEQNO_REQUEST => {
                let (ae, plen, seqno, hop_count) = (reader.u8()?, reader.u8()?, Seqno(reader.u16()?), reader.u8()?);
                reader.u8()?; // reserved
                let router_id = reader.router_id()?;
                reader.encoding(ae, &[ae::IPV4, ae::IPV6, ae::IPV4_VIA_IPV6])?;
                let prefix = reader.prefix(ae, plen)?;
                let source = reader.sub_tlvs(ae)?.known(kind)?.source;
                let via_v6 = ae == ae::IPV4_VIA_IPV6;
                Self::SeqnoRequest { prefix, source, via_v6, seqno, hop_count, router_id }
            }
            kind::MAC => Self::Mac(raw.body),
            kind::PC => {
                let counter = reader.u32()?;
                if reader.rest.len() > MAX_INDEX_LEN {
                    return Err(Error::Long { kind, len: raw.body.len() });
                }
                Self::Pc { counter, index: reader.rest }
            }
            kind::CHALLENGE_REQUEST | kind::CHALLENGE_REPLY if raw.body.len() > MAX_NONCE_LEN => {
                return Err(Error::Long { kind, len: raw.body.len() });
            }
            kind::CHALLENGE_REQUEST => Self::ChallengeRequest(raw.body),
            kind::CHALLENGE_REPLY => Self::ChallengeReply(raw.body),
            _ => Self::Other(raw),
        })
    }

    /// Bytes on the wire, type and length included.
    pub fn buffer_len(&self) -> usize {
        let mut counter = Emitter { buffer: &mut [], len: 0 };
        self.write(&mut counter);
        counter.len
    }

    /// Writes the TLV to the front of `buffer`, which has at least [`Tlv::buffer_len`] bytes; returns that length.
    ///
    /// The length byte holds at most 255: `Other`, `Mac` and nonces are cut there by [`super::Writer::push`]'s check.
    pub(super) fn emit(&self, buffer: &mut [u8]) -> usize {
        let mut emitter = Emitter { buffer, len: 0 };
        self.write(&mut emitter);
        let len = emitter.len;
        if let ([_, len_byte, ..], false) = (buffer, matches!(self, Self::Pad1)) {
            *len_byte = u8::try_from(len.saturating_sub(2)).unwrap_or(u8::MAX);
        }
        len
    }

    fn write(&self, out: &mut Emitter<'_>) {
        match *self {
            Self::Pad1 => out.put(&[kind::PAD1]),
            Self::PadN { len } => {
                out.put(&[kind::PADN, 0]);
                out.put(&[0; 255][..usize::from(len)]);
            }
            Self::AckRequest { opaque, interval } => {
                out.put(&[kind::ACK_REQUEST, 0, 0, 0]);
                out.u16(opaque);
                out.u16(interval);
            }
            Self::Ack { opaque } => {
                out.put(&[kind::ACK, 0]);
                out.u16(opaque);
            }
            Self::Hello { unicast, seqno, interval, sent_us } => {
                out.put(&[kind::HELLO, 0]);
                out.u16(if unicast { HELLO_UNICAST } else { 0 });
                out.u16(seqno.0);
                out.u16(interval);
                if let Some(sent) = sent_us {
                    out.put(&[sub_kind::TIMESTAMP, 4]);
                    out.put(&sent.to_be_bytes());
                }
            }
            Self::Ihu { address, rxcost, interval, echo_us, multicast_lost } => {
                let (bytes, len) = encode_address(address);
                out.put(&[kind::IHU, 0, encoding_of(address), 0]);
                out.u16(rxcost);
                out.u16(interval);
                out.put(&bytes[..len]);
                if let Some((origin, received)) = echo_us {
                    out.put(&[sub_kind::TIMESTAMP, 8]);
                    out.put(&origin.to_be_bytes());
                    out.put(&received.to_be_bytes());
                }
                if multicast_lost {
                    out.put(&[sub_kind::MULTICAST_LOST, 0]);
                }
            }
            Self::RouterId(id) => {
                out.put(&[kind::ROUTER_ID, 0, 0, 0]);
                out.put(&id.0);
            }
            Self::NextHop(address) => {
                let (bytes, len) = encode_address(Some(address));
                out.put(&[kind::NEXT_HOP, 0, encoding_of(Some(address)), 0]);
                out.put(&bytes[..len]);
            }
            Self::Update(update) => {
                let prefix = if update.sets_prefix { UPDATE_PREFIX } else { 0 };
                let router_id = if update.sets_router_id { UPDATE_ROUTER_ID } else { 0 };
                out.put(&[kind::UPDATE, 0, update.ae, prefix | router_id, update.plen, update.omitted]);
                out.u16(update.interval);
                out.u16(update.seqno.0);
                out.u16(update.metric);
                out.put(update.octets);
                out.source(update.source);
                if let Some(sub) = update.mandatory {
                    out.put(&[sub, 0]);
                }
            }
            Self::RouteRequest { prefix, source, via_v6 } => {
                out.put(&[kind::ROUTE_REQUEST, 0, prefix_encoding(prefix, via_v6)]);
                out.put(&[prefix.map_or(0, |prefix| prefix.len())]);
                if let Some(prefix) = prefix {
                    out.prefix(prefix);
                    out.source(source);
                }
            }
            Self::SeqnoRequest { prefix, source, via_v6, seqno, hop_count, router_id } => {
                out.put(&[kind::SEQNO_REQUEST, 0, prefix_encoding(Some(prefix), via_v6), prefix.len()]);
                out.u16(seqno.0);
                out.put(&[hop_count, 0]);
                out.put(&router_id.0);
                out.prefix(prefix);
                out.source(source);
            }
            Self::Mac(mac) => {
                out.put(&[kind::MAC, 0]);
                out.put(mac);
            }
            Self::Pc { counter, index } => {
                out.put(&[kind::PC, 0]);
                out.put(&counter.to_be_bytes());
                out.put(index);
            }
            Self::ChallengeRequest(nonce) => {
                out.put(&[kind::CHALLENGE_REQUEST, 0]);
                out.put(nonce);
            }
            Self::ChallengeReply(nonce) => {
                out.put(&[kind::CHALLENGE_REPLY, 0]);
                out.put(nonce);
            }
            Self::Other(raw) => {
                out.put(&[raw.kind, 0]);
                out.put(raw.body);
            }
        }
    }
}

/// RFC 8966 §4.6.9.
fn parse_update(mut reader: Reader<'_>) -> Result<Update<'_>, Error> {
    let kind = reader.kind;
    let (ae, flags, plen, omitted) = (reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?);
    let (interval, seqno, metric) = (reader.u16()?, Seqno(reader.u16()?), reader.u16()?);
    let address_len = reader.encoding(ae, &[ae::WILDCARD, ae::IPV4, ae::IPV6, ae::LINK_LOCAL, ae::IPV4_VIA_IPV6])?;
    let needed = usize::from(plen).div_ceil(8);
    if needed > address_len {
        return Err(Error::Prefix { kind, error: PrefixError::Length(plen) });
    }
    if usize::from(omitted) > needed {
        return Err(Error::Prefix { kind, error: PrefixError::Omitted(omitted) });
    }
    let octets = reader.bytes(needed - usize::from(omitted))?;
    let subs = reader.sub_tlvs(ae)?;
    Ok(Update {
        ae,
        sets_prefix: flags & UPDATE_PREFIX != 0,
        sets_router_id: flags & UPDATE_ROUTER_ID != 0,
        plen,
        omitted,
        interval,
        seqno,
        metric,
        octets,
        source: subs.source,
        mandatory: subs.mandatory,
    })
}

/// The encoding of a prefix in a request.
fn prefix_encoding(prefix: Option<Prefix>, via_v6: bool) -> u8 {
    match prefix {
        None => ae::WILDCARD,
        Some(prefix) if !prefix.is_ipv4() => ae::IPV6,
        Some(_) if via_v6 => ae::IPV4_VIA_IPV6,
        Some(_) => ae::IPV4,
    }
}

/// Writes as far as the buffer goes, and counts further.
struct Emitter<'b> {
    buffer: &'b mut [u8],
    len: usize,
}

impl Emitter<'_> {
    fn put(&mut self, bytes: &[u8]) {
        if let Some(room) = self.buffer.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
        }
        self.len += bytes.len();
    }

    fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn prefix(&mut self, prefix: Prefix) {
        let (octets, len) = prefix.octets();
        self.put(&octets[..len]);
    }

    fn source(&mut self, source: Option<Prefix>) {
        if let Some(source) = source {
            let (octets, len) = source.octets();
            self.put(&[sub_kind::SOURCE_PREFIX, u8::try_from(len + 1).unwrap_or(u8::MAX), source.len()]);
            self.put(&octets[..len]);
        }
    }
}
