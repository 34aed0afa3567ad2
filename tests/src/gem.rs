//! What gateways told each other on a link that was captured: GEM objects, and requests for them.

use std::collections::BTreeMap;

use gemcast_proto::wire::babel::Packet;
use gemcast_proto::wire::gem::{OBJECT, Object, ObjectName, REQUEST, Request};

use crate::frame::Datagram;

/// UDP port of Babel.
pub const BABEL_PORT: u16 = 6696;

/// GEM objects and requests on a link.
#[derive(Clone, Debug, Default)]
pub struct GemTraffic {
    /// How often each version of each object was sent.
    pub objects: BTreeMap<(ObjectName, u64), u64>,
    /// Objects that were asked for by name.
    pub requested: BTreeMap<ObjectName, u64>,
    /// Requests for everything.
    pub wildcards: u64,
}

impl GemTraffic {
    /// What these datagrams hold of it.
    pub fn of<'a>(datagrams: impl IntoIterator<Item = &'a Datagram>) -> Self {
        let mut traffic = Self::default();
        for datagram in datagrams.into_iter().filter(|datagram| datagram.port == BABEL_PORT) {
            let Ok(packet) = Packet::parse(&datagram.payload) else { continue };
            for tlv in packet.body().flatten() {
                match tlv.kind {
                    OBJECT => traffic.take_object(tlv.body),
                    REQUEST => traffic.take_request(tlv.body),
                    _ => {}
                }
            }
        }
        traffic
    }

    fn take_object(&mut self, body: &[u8]) {
        if let Ok(Object { header, .. }) = Object::parse(body) {
            *self.objects.entry((header.name, header.version)).or_default() += 1;
        }
    }

    fn take_request(&mut self, body: &[u8]) {
        let Ok(request) = Request::parse(body) else { return };
        self.wildcards += u64::from(request.is_wildcard());
        for entry in request.entries() {
            *self.requested.entry(entry.name).or_default() += 1;
        }
    }
}
