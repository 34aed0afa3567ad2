//! GEM TLV bodies and object payloads.

use gemcast_proto::wire::gem::kmg::{PackagePayload, RevokePayload, RosterPayload, SharePayload, SuccessorPayload};
use gemcast_proto::wire::gem::vote::VotePayload;
use gemcast_proto::wire::gem::{
    Digest, Error, MAX_BODY_LEN, MAX_REQUEST_ENTRIES, MAX_SUMMARY_ENTRIES, NodePayload, Object, Range, Request,
    SekPayload, Summary,
};

use crate::assert_told;

/// Takes the bytes as the body of each GEM TLV, and as each payload of an object.
pub fn check(data: &[u8]) {
    let mut buffer = [0; MAX_BODY_LEN];
    match Object::parse(data) {
        Ok(object) => {
            let len = object.header.emit(object.payload, &mut buffer);
            assert_eq!(buffer[..len], *object.signed);
            assert_eq!([object.signed, object.signature].concat(), data);
            check_payload(object.payload);
        }
        Err(error) => assert_told(&error),
    }
    check_payload(data);
    match Digest::parse(data) {
        Ok(digest) => {
            assert_eq!(digest.to_bytes(), data);
            check_range(digest.range);
        }
        Err(error) => assert_told(&error),
    }
    match Summary::parse(data) {
        Ok(summary) => {
            let written = summary.entries().count().min(MAX_SUMMARY_ENTRIES);
            let len = Summary::emit(summary.range, summary.entries(), &mut buffer);
            assert_eq!(buffer[..len], data[..len]);
            assert_eq!(Summary::parse(&buffer[..len]).expect("our own summary").entries().count(), written);
            check_range(summary.range);
        }
        Err(error) => assert_told(&error),
    }
    match Request::parse(data) {
        Ok(request) => {
            assert_eq!(request.is_wildcard(), data.is_empty());
            let written = request.entries().count().min(MAX_REQUEST_ENTRIES);
            let len = Request::emit(request.entries(), &mut buffer);
            assert_eq!(buffer[..len], data[..len]);
            assert_eq!(Request::parse(&buffer[..len]).expect("our own request").entries().count(), written);
        }
        Err(error) => assert_told(&error),
    }
}

fn check_payload(payload: &[u8]) {
    let mut buffer = [0; MAX_BODY_LEN];
    written(payload, NodePayload::parse(payload), |node| {
        let len = node.emit(buffer.first_chunk_mut().expect("a payload fits a body"));
        buffer[..len].to_vec()
    });
    written(payload, SekPayload::parse(payload), |sek| sek.to_bytes().into());
    written(payload, PackagePayload::parse(payload), |package| package.to_bytes().into());
    written(payload, SharePayload::parse(payload), |share| share.to_bytes().into());
    written(payload, VotePayload::parse(payload), |vote| vote.to_bytes().into());
    written(payload, RevokePayload::parse(payload), |revoke| revoke.node.0.into());
    written(payload, RosterPayload::parse(payload), |roster| {
        let len = roster.emit(buffer.first_chunk_mut().expect("a payload fits a body"));
        buffer[..len].to_vec()
    });
    written(payload, SuccessorPayload::parse(payload), |successor| successor.to_bytes().into());
}

/// What was read is written byte for byte as it was.
fn written<T>(payload: &[u8], parsed: Result<T, Error>, write: impl FnOnce(T) -> Vec<u8>) {
    match parsed {
        Ok(value) => assert_eq!(write(value), payload),
        Err(error) => assert_told(&error),
    }
}

/// The subtrees below one are its parts: in order, without gap or overlap.
fn check_range(range: Range) {
    let mut next = Some(*range.bounds().start());
    let mut parts = 0;
    for child in range.children() {
        assert_eq!(next, Some(*child.bounds().start()));
        next = child.bounds().end().checked_add(1);
        parts += 1;
    }
    if parts > 0 {
        assert_eq!((parts, next), (16, range.bounds().end().checked_add(1)));
    }
}
