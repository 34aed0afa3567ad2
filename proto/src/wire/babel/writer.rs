//! Builds packets: TLVs one after the other into a buffer, updates compressed against what the reader will know.

use super::prefix::ae;
use super::{Announcement, Context, HEADER_LEN, MAGIC, Tlv, Update, VERSION};
use core::fmt;
use core::net::{IpAddr, Ipv6Addr};

/// The packet has no room for it. Nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no room left in the packet")
    }
}

impl core::error::Error for Full {}

/// Fills one packet body.
pub struct Writer<'b> {
    buffer: &'b mut [u8],
    len: usize,
    context: Context,
}

impl<'b> Writer<'b> {
    /// An empty packet from `source` in `buffer`, whose length bounds the packet without trailer. The buffer holds at
    /// least a header.
    pub fn new(buffer: &'b mut [u8], source: Ipv6Addr) -> Self {
        assert!(buffer.len() >= HEADER_LEN, "a packet buffer holds a header");
        let len = buffer.len().min(HEADER_LEN + usize::from(u16::MAX));
        Self { buffer: &mut buffer[..len], len: HEADER_LEN, context: Context::new(source) }
    }

    /// Appends a TLV. One whose body exceeds 255 bytes is `Full` wherever it is put.
    pub fn push(&mut self, tlv: &Tlv<'_>) -> Result<(), Full> {
        let len = tlv.buffer_len();
        let room = self.buffer.get_mut(self.len..self.len + len).ok_or(Full)?;
        if len > 2 + 255 {
            return Err(Full);
        }
        self.len += tlv.emit(room);
        match *tlv {
            Tlv::RouterId(id) => self.context.set_router_id(id),
            Tlv::NextHop(address) => self.context.set_next_hop(address),
            Tlv::Update(update) => {
                // What the reader makes of it is of no interest; the state it then has, is.
                let _ = self.context.update(&update);
            }
            _ => {}
        }
        Ok(())
    }

    /// Appends an update, behind the Router-Id and Next Hop TLVs it needs, all or nothing.
    pub fn announce(&mut self, route: &Announcement) -> Result<(), Full> {
        let (len, context) = (self.len, self.context.clone());
        let result = self.announce_parts(route);
        if result.is_err() {
            self.len = len;
            self.context = context;
        }
        result
    }

    fn announce_parts(&mut self, route: &Announcement) -> Result<(), Full> {
        if let Some(id) = route.router_id.filter(|&id| self.context.router_id() != Some(id)) {
            self.push(&Tlv::RouterId(id))?;
        }
        if let Some(address) = route.next_hop.filter(|&address| self.context.next_hop(address) != Some(address)) {
            self.push(&Tlv::NextHop(address))?;
        }
        let encoding = match (route.prefix, route.next_hop) {
            (None, _) => ae::WILDCARD,
            (Some(prefix), Some(IpAddr::V6(_))) if prefix.is_ipv4() => ae::IPV4_VIA_IPV6,
            (Some(prefix), _) if prefix.is_ipv4() => ae::IPV4,
            (Some(_), _) => ae::IPV6,
        };
        let (octets, needed) = route.prefix.map_or(([0; 16], 0), |prefix| prefix.octets());
        let default = self.context.default_prefix(encoding);
        let omitted = default.map_or(0, |default| {
            octets[..needed].iter().zip(&default).take_while(|(octet, default)| octet == default).count()
        });
        self.push(&Tlv::Update(Update {
            ae: encoding,
            // A prefix that shares nothing with the default one is the better default from here on.
            sets_prefix: encoding != ae::WILDCARD && omitted == 0 && needed > 0,
            sets_router_id: false,
            plen: route.prefix.map_or(0, |prefix| prefix.len()),
            omitted: u8::try_from(omitted).expect("at most 16"),
            interval: route.interval,
            seqno: route.seqno,
            metric: route.metric,
            octets: &octets[omitted..needed],
            source: route.source,
            mandatory: None,
        }))
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == HEADER_LEN
    }

    /// Bytes still free.
    pub fn room(&self) -> usize {
        self.buffer.len() - self.len
    }

    /// Writes the header; returns the length of header and body.
    pub fn finish(self) -> usize {
        let body = u16::try_from(self.len - HEADER_LEN).expect("bounded in new()");
        self.buffer[..2].copy_from_slice(&[MAGIC, VERSION]);
        self.buffer[2..HEADER_LEN].copy_from_slice(&body.to_be_bytes());
        self.len
    }
}
