//! Babel packets, their TLVs, and the state that a reader carries through one packet.

use core::net::Ipv6Addr;

use gemcast_proto::wire::babel::{Announcement, Context, HEADER_LEN, INFINITY, Packet, RawTlv, Tlv, Tlvs, Writer};

use crate::assert_told;

/// Source of the packets.
const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);

/// Takes the bytes as a packet and, whatever that gave, as a run of TLVs.
pub fn check(data: &[u8]) {
    match Packet::parse(data) {
        Ok(packet) => {
            let trailer = packet.trailer().map(|tlv| tlv.map_or(0, |raw| raw_len(&raw))).sum::<usize>();
            assert!(packet.signed().len() >= HEADER_LEN && packet.signed().len() + trailer <= data.len());
            check_tlvs(packet.body());
            for raw in packet.trailer().flatten() {
                check_tlv(raw);
            }
        }
        Err(error) => assert_told(&error),
    }
    check_tlvs(Tlvs::new(data));
}

fn raw_len(raw: &RawTlv<'_>) -> usize {
    if raw.kind == 0 { 1 } else { 2 + raw.body.len() }
}

fn check_tlvs(tlvs: Tlvs<'_>) {
    let mut context = Context::new(SOURCE);
    let mut announcements = Vec::new();
    for raw in tlvs {
        let tlv = match raw {
            Ok(raw) => check_tlv(raw),
            Err(error) => return assert_told(&error),
        };
        match tlv {
            Some(Tlv::RouterId(id)) => context.set_router_id(id),
            Some(Tlv::NextHop(address)) => context.set_next_hop(address),
            Some(Tlv::Update(update)) => match context.update(&update) {
                Ok(announcement) => announcements.push(announcement),
                Err(error) => assert_told(&error),
            },
            _ => {}
        }
    }
    for announcements in announcements.chunks(32) {
        check_announcements(announcements);
    }
}

/// A TLV that was read is written so that it reads the same.
fn check_tlv(raw: RawTlv<'_>) -> Option<Tlv<'_>> {
    let tlv = match Tlv::parse(raw) {
        Ok(tlv) => tlv,
        Err(error) => {
            assert_told(&error);
            return None;
        }
    };
    let mut buffer = [0; HEADER_LEN + 2 + 255];
    let mut writer = Writer::new(&mut buffer, SOURCE);
    writer.push(&tlv).expect("what was read from one TLV fits into one");
    let len = writer.finish();
    assert_eq!(len, HEADER_LEN + tlv.buffer_len());
    let packet = Packet::parse(&buffer[..len]).expect("our own packet");
    let mut body = packet.body();
    let again = body.next().expect("a TLV").expect("a whole one");
    assert!(body.next().is_none(), "one TLV was written, several are read");
    assert_eq!(Tlv::parse(again), Ok(tlv));
    Some(tlv)
}

/// Routes that were read are read the same from a packet of ours, however it compresses them.
fn check_announcements(announcements: &[Announcement]) {
    let mut buffer = [0; 4096];
    let mut writer = Writer::new(&mut buffer, SOURCE);
    for announcement in announcements {
        writer.announce(announcement).expect("the buffer holds 32 routes");
    }
    let len = writer.finish();
    let mut context = Context::new(SOURCE);
    let mut read = Vec::new();
    for raw in Packet::parse(&buffer[..len]).expect("our own packet").body() {
        match Tlv::parse(raw.expect("whole TLVs")).expect("our own TLV") {
            Tlv::RouterId(id) => context.set_router_id(id),
            Tlv::NextHop(address) => context.set_next_hop(address),
            Tlv::Update(update) => read.push(context.update(&update).expect("our own update")),
            other => panic!("{other:?} among our routes"),
        }
    }
    assert_eq!(read.len(), announcements.len());
    for (read, written) in read.iter().zip(announcements) {
        assert_eq!(meaning(read), meaning(written));
    }
}

/// What counts of an announcement: a retraction has no next hop, and its router-id may be any.
fn meaning(announcement: &Announcement) -> Announcement {
    let mut meaning = *announcement;
    if meaning.metric == INFINITY {
        meaning.next_hop = None;
        meaning.router_id = None;
    }
    meaning
}
