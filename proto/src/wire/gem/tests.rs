use super::*;
use proptest::prelude::*;
use std::string::String;
use std::vec::Vec;

fn any_name() -> impl Strategy<Value = ObjectName> {
    (any::<[u8; 8]>(), any::<u8>(), any::<u64>()).prop_map(|(origin, kind, id)| ObjectName {
        origin: NodeId(origin),
        kind: ObjectKind(kind),
        id,
    })
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (any_name(), any::<u64>()).prop_map(|(name, version)| Entry { name, version })
}

fn any_range() -> impl Strategy<Value = Range> {
    (0..=16u8, any::<u64>()).prop_map(|(depth, bits)| Range { depth, prefix: bits & !Range::mask_past(depth) })
}

#[test]
fn an_object_lies_on_the_wire_as_drawn() {
    let header = ObjectHeader {
        tombstone: true,
        name: ObjectName { origin: NodeId([0xa1; 8]), kind: ObjectKind::SEK, id: 0x0102 },
        version: 0x0304,
        not_after: 0x0506,
    };
    let mut body = [0; MAX_BODY_LEN];
    let len = header.emit(&[0xee, 0xff], &mut body);
    #[rustfmt::skip]
    let expected = [
        2, 1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0xa1, 0, 0, 0, 0, 0, 0, 1, 2,
        0, 0, 0, 0, 0, 0, 3, 4, 0, 0, 5, 6, 0xee, 0xff,
    ];
    assert_eq!(body[..len], expected);
    let object = Object::parse(&body[..len + SIGNATURE_LEN]).unwrap();
    assert_eq!((object.header, object.payload, object.signed), (header, &[0xee, 0xff][..], &expected[..]));
}

#[test]
fn what_is_no_object_is_refused_by_name() {
    assert_eq!(Object::parse(&[0; 93]), Err(Error::Length { what: "object", len: 93 }));
    let mut body = [0; 94];
    body[1] = 0x80;
    assert_eq!(Object::parse(&body), Err(Error::Flags(0x80)));
    assert_eq!(SekPayload::parse(&[0; 95]), Err(Error::Length { what: "SEK payload", len: 95 }));
    assert_eq!(SekPayload::parse(&[0; 96]), Err(Error::KeyId));
    let mut node = [0; 66];
    node[64..].copy_from_slice(&[1, 0xff]);
    assert_eq!(NodePayload::parse(&node), Err(Error::Name));
    assert_eq!(NodePayload::parse(&node[..65]), Err(Error::Name));
}

#[test]
fn children_partition_their_range() {
    let parent = Range::WHOLE.children().nth(10).unwrap();
    let mut next = *parent.bounds().start();
    for child in parent.children() {
        assert_eq!(*child.bounds().start(), next);
        next = child.bounds().end().wrapping_add(1);
    }
    assert_eq!(next, parent.bounds().end().wrapping_add(1));
    let bottom = (0..16).fold(Range::WHOLE, |range, _| range.children().last().unwrap());
    assert_eq!((bottom.bounds(), bottom.children().count()), (u64::MAX..=u64::MAX, 0));
}

proptest! {
    #[test]
    fn any_bytes_give_a_value_or_a_named_error(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(object) = Object::parse(&bytes) {
            let _ = (NodePayload::parse(object.payload), SekPayload::parse(object.payload));
        }
        let _ = (NodePayload::parse(&bytes), SekPayload::parse(&bytes), Digest::parse(&bytes));
        let _ = Summary::parse(&bytes).map(|summary| summary.entries().count());
        let _ = Request::parse(&bytes).map(|request| request.entries().count());
    }

    #[test]
    fn objects_round_trip(
        name in any_name(), tombstone in any::<bool>(), version in any::<u64>(), not_after in any::<u32>(),
        payload in proptest::collection::vec(any::<u8>(), 0..=MAX_PAYLOAD_LEN),
    ) {
        let header = ObjectHeader { tombstone, name, version, not_after };
        let mut body = [0x55; MAX_BODY_LEN];
        let len = header.emit(&payload, &mut body);
        let object = Object::parse(&body[..len + SIGNATURE_LEN]).unwrap();
        prop_assert_eq!((object.header, object.payload), (header, &payload[..]));
        prop_assert_eq!(object.signature, &[0x55; SIGNATURE_LEN]);
    }

    #[test]
    fn payloads_round_trip(
        keys in any::<([u8; 32], [u8; 32])>(), name in "[a-zäß-]{0,20}", group in any::<[u8; 3]>(),
        numbers in (any::<u16>(), 1..=u32::MAX, any::<u8>(), any::<u64>()), salt in any::<[u8; 16]>(),
        half in any::<[u8; 24]>(),
    ) {
        let name: String = name;
        let node = NodePayload { signing_key: keys.0, agreement_key: keys.1, name: &name };
        let mut out = [0; NodePayload::MAX_LEN];
        let len = node.emit(&mut out);
        prop_assert_eq!(NodePayload::parse(&out[..len]), Ok(node));

        let mut wrapped = [0; 48];
        wrapped[12..36].copy_from_slice(&half);
        let sek = SekPayload {
            group: Group::single([239, group[0], group[1], group[2]].into()).unwrap(),
            epoch: Epoch(numbers.0), key_id: KeyId(numbers.1), suite: numbers.2, not_before_ms: numbers.3, salt, wrapped,
        };
        prop_assert_eq!(SekPayload::parse(&sek.to_bytes()), Ok(sek));
    }

    #[test]
    fn comparisons_round_trip(
        range in any_range(), count in any::<u32>(), sum in any::<u128>(),
        entries in proptest::collection::vec(any_entry(), 0..=MAX_SUMMARY_ENTRIES),
    ) {
        let digest = Digest { range, count, sum };
        prop_assert_eq!(Digest::parse(&digest.to_bytes()), Ok(digest));
        let mut out = [0; MAX_BODY_LEN];
        let len = Summary::emit(range, entries.iter().copied(), &mut out);
        let summary = Summary::parse(&out[..len]).unwrap();
        prop_assert_eq!(summary.range, range);
        prop_assert_eq!(summary.entries().collect::<Vec<_>>(), entries.clone());
        let len = Request::emit(entries.iter().copied(), &mut out);
        prop_assert_eq!(Request::parse(&out[..len]).unwrap().entries().collect::<Vec<_>>(), entries);
    }
}

#[test]
fn r5_names_that_could_fake_what_stands_around_them_are_refused() {
    let payload = |name: &str| {
        let mut out = [0; NodePayload::MAX_LEN];
        let len = NodePayload { signing_key: [1; 32], agreement_key: [2; 32], name }.emit(&mut out);
        out[..len].to_vec()
    };
    for name in ["a\u{1b}[2K", "a\nb", "a\u{85}", "a\u{202e}b", "a\u{200b}", "\t"] {
        assert_eq!(NodePayload::parse(&payload(name)), Err(Error::NameCharacters), "{name:?}");
    }
    for name in ["", "studio-1", "head office", "Köln"] {
        assert_eq!(NodePayload::parse(&payload(name)).unwrap().name, name);
    }
}
