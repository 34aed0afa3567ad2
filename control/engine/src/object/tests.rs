use super::room::MAX_IDLE;
use super::*;
use ring::signature::{Ed25519KeyPair, KeyPair};

const NOW: UnixMillis = UnixMillis(1_000_000_000);

struct Origin {
    key: Ed25519KeyPair,
    id: NodeId,
}

impl Origin {
    fn new(seed: u8) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let id = node_id_of(key.public_key().as_ref().try_into().unwrap());
        Self { key, id }
    }

    fn node(&self, version: u64) -> Vec<u8> {
        let signing_key = self.key.public_key().as_ref().try_into().unwrap();
        let mut payload = [0; NodePayload::MAX_LEN];
        let len = NodePayload { signing_key, agreement_key: [1; 32], name: "n" }.emit(&mut payload);
        self.object(ObjectKind::NODE, 0, version, &payload[..len])
    }

    fn object(&self, kind: ObjectKind, id: u64, version: u64, payload: &[u8]) -> Vec<u8> {
        let name = ObjectName { origin: self.id, kind, id };
        sign(&self.key, &ObjectHeader { tombstone: false, name, version, not_after: 1_000_100 }, payload)
    }
}

fn table(bodies: &[Vec<u8>]) -> Objects {
    let mut objects = Objects::default();
    for body in bodies {
        objects.offer(NOW, body).unwrap();
    }
    objects
}

#[test]
fn ed25519_is_rfc_8032s() {
    // §7.1 test 1: the secret key gives this public key.
    let seed = [
        0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49,
        0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
    ];
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    assert_eq!(key.public_key().as_ref()[..4], [0xd7, 0x5a, 0x98, 0x01]);
    assert_eq!(key.sign(b"").as_ref()[..4], [0xe5, 0x56, 0x43, 0x00]);
}

#[test]
fn the_highest_version_wins_in_any_order() {
    let origin = Origin::new(1);
    let [old, new] = [5, 6].map(|version| origin.object(ObjectKind(99), 7, version, b"x"));
    let node = origin.node(1);
    let ascending = table(&[node.clone(), old.clone(), new.clone()]);
    let mut descending = table(&[node, new.clone()]);
    assert_eq!(descending.offer(NOW, &old), Ok(Offer::Outdated));
    assert_eq!(descending.offer(NOW, &new), Ok(Offer::Repeated));
    assert_eq!(ascending.digest(Range::WHOLE), descending.digest(Range::WHOLE));
    assert_eq!(ascending.len(), 2);
}

#[test]
fn nothing_enters_without_its_origins_signature() {
    let (origin, stranger) = (Origin::new(1), Origin::new(2));
    let mut objects = table(&[origin.node(1)]);
    let good = origin.object(ObjectKind(99), 7, 5, b"payload");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        assert!(objects.offer(NOW, &bad).is_err(), "byte {at}");
    }
    let name = ObjectName { origin: origin.id, kind: ObjectKind(99), id: 7 };
    let forged = sign(&stranger.key, &ObjectHeader { tombstone: false, name, version: 5, not_after: 1_000_100 }, b"");
    assert_eq!(objects.offer(NOW, &forged), Err(Refusal::Signature));
    assert_eq!(objects.offer(NOW, &stranger.object(ObjectKind(99), 7, 5, b"")), Err(Refusal::UnknownOrigin));
    assert_eq!(objects.len(), 1);
}

#[test]
fn a_node_id_belongs_to_its_key() {
    let (origin, stranger) = (Origin::new(1), Origin::new(2));
    let mut payload = [0; NodePayload::MAX_LEN];
    let signing_key = stranger.key.public_key().as_ref().try_into().unwrap();
    let len = NodePayload { signing_key, agreement_key: [1; 32], name: "n" }.emit(&mut payload);
    let name = ObjectName { origin: origin.id, kind: ObjectKind::NODE, id: 0 };
    let header = ObjectHeader { tombstone: false, name, version: 9, not_after: 1_000_100 };
    let stolen = sign(&stranger.key, &header, &payload[..len]);
    assert_eq!(Objects::default().offer(NOW, &stolen), Err(Refusal::Origin));
}

#[test]
fn two_objects_of_one_version_leave_the_same_one_everywhere() {
    let origin = Origin::new(1);
    let [a, b] = [b"a", b"b"].map(|payload| origin.object(ObjectKind(99), 7, 5, payload));
    let mut first = table(&[origin.node(1), a.clone()]);
    let mut second = table(&[origin.node(1), b.clone()]);
    let outcomes = (first.offer(NOW, &b).unwrap(), second.offer(NOW, &a).unwrap());
    assert!(matches!(outcomes, (Offer::Conflict { replaced: x }, Offer::Conflict { replaced: y }) if x != y));
    assert_eq!(first.digest(Range::WHOLE), second.digest(Range::WHOLE));
}

#[test]
fn f37_objects_run_out_with_their_skew_and_take_orphans_along() {
    let origin = Origin::new(1);
    let mut objects = table(&[origin.node(1), origin.object(ObjectKind(99), 7, 5, b"")]);
    let end = UnixMillis(1_000_100_000) + SKEW;
    assert!(objects.expire(end).is_empty());
    assert_eq!(objects.next_expiry(), Some(UnixMillis(end.0 + 1)));
    assert_eq!(objects.expire(UnixMillis(end.0 + 1)).len(), 2);
    assert_eq!(objects.digest(Range::WHOLE), Objects::default().digest(Range::WHOLE));
    assert_eq!(objects.offer(UnixMillis(end.0), &origin.node(1)), Ok(Offer::Accepted), "30 s are tolerated");
    let refused = objects.offer(UnixMillis(end.0 + 1), &origin.node(2));
    assert_eq!(refused, Err(Refusal::Expired));
    assert_eq!(Refusal::Expired.to_string(), "its validity ended more than 30 s ago");
}

#[test]
fn f37_a_key_from_the_future_is_refused_and_its_withdrawal_is_not() {
    let origin = Origin::new(1);
    let mut objects = table(&[origin.node(NOW.0 + 3_600_000)]);
    let sek = |version| origin.object(ObjectKind::SEK, 7, version, b"");
    assert_eq!(objects.offer(NOW, &sek(NOW.0 + 30_001)), Err(Refusal::Ahead(SKEW + Duration::from_millis(1))));
    assert_eq!(objects.offer(NOW, &sek(NOW.0 + 30_000)), Ok(Offer::Accepted), "30 s are tolerated");
    let name = ObjectName { origin: origin.id, kind: ObjectKind::SEK, id: 7 };
    let header = ObjectHeader { tombstone: true, name, version: NOW.0 + 30_001, not_after: 1_000_100 };
    assert_eq!(objects.offer(NOW, &sign(&origin.key, &header, b"")), Ok(Offer::Accepted));
    // Our own from before a restart: the last word on them is ours, so they have to be known.
    let mut own = Objects::new(origin.id);
    own.offer(NOW, &origin.node(1)).unwrap();
    assert_eq!(own.offer(NOW, &sek(NOW.0 + 30_001)), Ok(Offer::Accepted));
}

#[test]
fn r5_many_identities_that_run_out_at_once_do_not_stop_anything_else() {
    let origins: Vec<_> = (1..=40).map(Origin::new).collect();
    let of = |origin: &Origin| {
        [vec![origin.node(1)], (0..60).map(|id| origin.object(ObjectKind::SEK, id, 1, b"")).collect()]
    };
    let bodies: Vec<_> = origins.iter().flat_map(of).flatten().collect();
    let mut objects = table(&bodies);
    let over = UnixMillis(1_000_100_001) + SKEW;
    let mut sizes = Vec::new();
    while objects.next_expiry().is_some_and(|at| at <= over) {
        sizes.push(objects.expire(over).len());
    }
    assert_eq!(sizes.iter().sum::<usize>(), bodies.len());
    assert!(sizes.iter().all(|size| *size <= EXPIRE_BATCH), "{sizes:?}");
    assert!(objects.per_origin.is_empty() && objects.nodes.is_empty());
}

#[test]
fn a_node_goes_after_the_last_of_its_objects() {
    let origin = Origin::new(1);
    let seks = (0..EXPIRE_BATCH as u64 + 5).map(|id| origin.object(ObjectKind::SEK, id, 1, b""));
    let mut objects = table(&[vec![origin.node(1)], seks.collect()].concat());
    // The NODE runs out long before them.
    let position = position(&ObjectName { origin: origin.id, kind: ObjectKind::NODE, id: 0 });
    objects.by_expiry.remove(&(1_000_100, position));
    objects.by_position.get_mut(&position).unwrap().keep_until = 1;
    objects.by_expiry.insert((1, position));
    let over = UnixMillis(1_001) + SKEW;
    assert_eq!(objects.expire(over).len(), EXPIRE_BATCH);
    assert!(objects.node(origin.id).is_some() && objects.next_expiry() == Some(over));
    assert_eq!(objects.expire(over).len(), 6);
    assert_eq!((objects.len(), objects.node(origin.id).is_some()), (0, false));
}

#[test]
fn room_is_kept_for_our_own_objects_and_for_kinds_that_are_known() {
    let (own, other) = (Origin::new(1), Origin::new(2));
    let mut objects = Objects::new(own.id);
    let name = |id| ObjectName { origin: other.id, kind: ObjectKind::SEK, id };
    let positions = (0..MAX_OBJECTS_PER_ORIGIN as u64).map(|id| (id, name(id))).collect();
    let full = super::Origin { positions, ..Default::default() };
    for origin in [&own, &other] {
        objects.offer(NOW, &origin.node(1)).unwrap();
        objects.per_origin.insert(origin.id, full.clone());
    }
    let ours = own.object(ObjectKind::SEK, 7, 1, b"");
    assert_eq!(objects.offer(NOW, &ours), Err(Refusal::Quota), "of somebody who has our key, too");
    assert_eq!(objects.publish(NOW, &ours), Ok(Offer::Accepted));
    assert_eq!(objects.offer(NOW, &other.object(ObjectKind::SEK, 7, 1, b"")), Err(Refusal::Quota));
    objects.per_origin.insert(other.id, super::Origin::default());
    objects.idle = MAX_IDLE;
    assert_eq!(objects.offer(NOW, &other.object(ObjectKind(99), 7, 1, b"")), Err(Refusal::Quota));
    assert_eq!(objects.offer(NOW, &other.object(ObjectKind::SEK, 7, 1, b"")), Ok(Offer::Accepted));
}

#[test]
fn no_object_is_valid_for_months() {
    let origin = Origin::new(1);
    let name = ObjectName { origin: origin.id, kind: ObjectKind::NODE, id: 0 };
    let node = Object::parse(&origin.node(1)).unwrap().payload.to_vec();
    let until = |days: u32| {
        let header = ObjectHeader { tombstone: false, name, version: 1, not_after: 1_000_000 + days * 86_400 };
        Objects::default().offer(NOW, &sign(&origin.key, &header, &node))
    };
    assert_eq!((until(22), until(23)), (Ok(Offer::Accepted), Err(Refusal::TooLong)));
}

#[test]
fn digests_of_children_add_up_to_their_parents() {
    let origin = Origin::new(1);
    let bodies: Vec<_> = (0..100).map(|id| origin.object(ObjectKind(99), id, 1, b"")).collect();
    let objects = table(&[vec![origin.node(1)], bodies].concat());
    let children: Vec<_> = Range::WHOLE.children().map(|range| objects.digest(range)).collect();
    let whole = objects.digest(Range::WHOLE);
    assert_eq!(children.iter().map(|child| child.count).sum::<u32>(), whole.count);
    assert_eq!(children.iter().fold(0u128, |sum, child| sum.wrapping_add(child.sum)), whole.sum);
}

#[test]
fn r3_an_id_has_one_key_and_an_administrators_is_the_configured_one() {
    // Nobody finds two keys with the same 64 bits of hash in a test: the table is told of another one instead.
    let (administrator, node) = (Origin::new(1), Origin::new(2));
    let mut objects =
        table(&[administrator.node(1), administrator.object(ObjectKind::REVOKE, 7, 1, &7u64.to_be_bytes())]);
    let key = administrator.key.public_key().as_ref().try_into().unwrap();
    objects.set_administrators(&[key]);
    assert_eq!(objects.offer(NOW, &administrator.node(2)), Ok(Offer::Accepted));
    objects.administrators.insert(administrator.id, [9; 32]);
    assert_eq!(objects.offer(NOW, &administrator.node(3)), Err(Refusal::Origin));

    objects.offer(NOW, &node.node(1)).unwrap();
    assert_eq!(objects.offer(NOW, &node.node(2)), Ok(Offer::Accepted));
    objects.nodes.get_mut(&node.id).unwrap().signing_key = [9; 32];
    assert_eq!(objects.offer(NOW, &node.node(3)), Err(Refusal::Origin));

    // The administrator is named after the forgery came: that goes.
    objects.nodes.get_mut(&administrator.id).unwrap().signing_key = [9; 32];
    objects.set_administrators(&[key]);
    assert_eq!(objects.of(administrator.id, ObjectKind::REVOKE).count(), 0);
    assert_eq!(objects.offer(NOW, &administrator.node(4)), Ok(Offer::Accepted));
}

const HOUR_LATER: UnixMillis = UnixMillis(NOW.0 + 3_600_000);

impl Origin {
    /// Its NODE, and SEKs of these ids, that outlive the hour.
    fn bodies(&self, ids: core::ops::Range<u64>) -> Vec<Vec<u8>> {
        let lasting = |kind, id, payload: &[u8]| {
            let name = ObjectName { origin: self.id, kind, id };
            sign(&self.key, &ObjectHeader { tombstone: false, name, version: 1, not_after: 1_010_000 }, payload)
        };
        let node = Object::parse(&self.node(1)).unwrap().payload.to_vec();
        let seks = ids.map(|id| lasting(ObjectKind::SEK, id, b""));
        [lasting(ObjectKind::NODE, 0, &node)].into_iter().chain(seks).collect()
    }
}

/// A table of so many objects.
fn small(capacity: usize) -> Objects {
    let mut objects = Objects::default();
    objects.room.capacity = capacity;
    objects
}

/// How many of these are taken.
fn offer_all(objects: &mut Objects, now: UnixMillis, bodies: &[Vec<u8>]) -> usize {
    bodies.iter().filter(|body| objects.offer(now, body) == Ok(Offer::Accepted)).count()
}

fn count(objects: &Objects, origin: &Origin) -> usize {
    objects.per_origin.get(&origin.id).map_or(0, |origin| origin.positions.len())
}

#[test]
fn r5_who_was_here_before_finds_room_in_a_table_that_others_filled() {
    let (honest, attackers) = (Origin::new(1), [2, 3, 4, 5].map(Origin::new));
    let mut objects = small(40);
    offer_all(&mut objects, NOW, &honest.bodies(0..2));
    objects.mature(HOUR_LATER);
    let flood: Vec<_> = attackers.iter().flat_map(|one| one.bodies(0..20)).collect();
    offer_all(&mut objects, HOUR_LATER, &flood);
    assert_eq!((objects.len(), count(&objects, &honest)), (40, 3));
    objects.take_evicted();
    // A rotation of every key it may have.
    let rotation = honest.bodies(100..120);
    for body in &rotation[1..] {
        assert_eq!(objects.offer(HOUR_LATER, body), Ok(Offer::Accepted));
    }
    assert_eq!((objects.len(), count(&objects, &honest)), (40, 23));
    let evicted = objects.take_evicted();
    assert!(evicted.len() == 20 && evicted.iter().all(|stored| stored.header.name.origin != honest.id));
    // What gave way is refused without a look at its signature, and nothing moves any more.
    let digest = objects.digest(Range::WHOLE);
    for body in flood
        .iter()
        .filter(|body| objects.get(&Object::parse(body).unwrap().header.name).is_none())
        .cloned()
        .collect::<Vec<_>>()
    {
        assert!(!objects.has_room(&body));
        assert!(objects.offer(HOUR_LATER, &body).is_err());
    }
    assert_eq!(objects.digest(Range::WHOLE), digest);
}

#[test]
fn r5_newcomers_come_to_share_what_there_is_and_do_not_push_each_other_out_in_turns() {
    let origins = [1, 2, 3].map(Origin::new);
    let mut objects = small(30);
    let all: Vec<_> = origins.iter().flat_map(|one| one.bodies(0..40)).collect();
    // Until each NODE is there; what comes before its NODE cannot be verified.
    offer_all(&mut objects, NOW, &all);
    offer_all(&mut objects, NOW, &all);
    assert_eq!(offer_all(&mut objects, NOW, &all), 0, "the same objects find no room for ever");
    let counts = origins.each_ref().map(|one| count(&objects, one));
    assert!(objects.len() == 30 && counts.iter().all(|count| (9..=11).contains(count)), "{counts:?}");
}

#[test]
fn r5_listed_origins_are_never_evicted_and_where_only_they_count_no_key_of_others_is_kept() {
    let (listed, stranger) = (Origin::new(1), Origin::new(2));
    let mut objects = small(10);
    offer_all(&mut objects, NOW, &stranger.bodies(0..20));
    assert!(objects.set_listed([listed.id].into(), true));
    assert!(!objects.set_listed([listed.id].into(), true), "no news");
    for body in listed.bodies(0..9) {
        assert_eq!(objects.offer(NOW, &body), Ok(Offer::Accepted));
    }
    assert_eq!((count(&objects, &listed), count(&objects, &stranger)), (10, 0));
    assert_eq!(objects.offer(NOW, &listed.bodies(10..11)[1]), Err(Refusal::Quota), "full of its equals");
    let mut objects = small(100);
    objects.set_listed([listed.id].into(), true);
    let [node, sek] = [0, 1].map(|at| stranger.bodies(0..1)[at].clone());
    assert_eq!(objects.offer(NOW, &node), Ok(Offer::Accepted), "it is seen, and can be listed");
    assert_eq!(objects.offer(NOW, &sek), Err(Refusal::Quota));
}

#[test]
fn r5_what_an_unknown_administrator_made_for_ever_stays_22_days() {
    let stranger = Origin::new(1);
    let day = 24 * 3_600_000;
    let lasting = |kind, id, version, payload: &[u8]| {
        let name = ObjectName { origin: stranger.id, kind, id };
        sign(&stranger.key, &ObjectHeader { tombstone: false, name, version, not_after: FOREVER }, payload)
    };
    let mut payload = [0; NodePayload::MAX_LEN];
    let signing_key = stranger.key.public_key().as_ref().try_into().unwrap();
    let len = NodePayload { signing_key, agreement_key: [0; 32], name: "n" }.emit(&mut payload);
    let node = |version| lasting(ObjectKind::NODE, 0, version, &payload[..len]);
    let mut objects = Objects::default();
    assert_eq!(objects.offer(UnixMillis(NOW.0 + 23 * day), &node(NOW.0)), Err(Refusal::Expired));
    assert_eq!(objects.offer(NOW, &node(NOW.0 + day)), Err(Refusal::TooLong), "made tomorrow");
    assert_eq!(objects.offer(NOW, &node(NOW.0)), Ok(Offer::Accepted));
    let end = objects.next_expiry().unwrap();
    assert_eq!(end, UnixMillis(NOW.0 + 22 * day + 1) + SKEW);
    // The operator comes to know it.
    objects.set_administrators(&[signing_key]);
    assert!(objects.expire(end).is_empty());
    objects.set_administrators(&[]);
    assert_eq!(objects.expire(end).len(), 1);
}

#[test]
fn r1_what_was_withdrawn_stays_so_when_its_node_runs_out_and_comes_back() {
    let origin = Origin::new(1);
    let name = ObjectName { origin: origin.id, kind: ObjectKind::SEK, id: 7 };
    let sek =
        |version, tombstone| sign(&origin.key, &ObjectHeader { tombstone, name, version, not_after: 1_010_000 }, b"");
    let mut objects = table(&[origin.node(1), sek(5, false), sek(6, true)]);
    let over = UnixMillis(1_000_100_001) + SKEW;
    assert_eq!(objects.expire(over).len(), 1, "the NODE");
    assert_eq!(objects.digest(Range::WHOLE), Objects::default().digest(Range::WHOLE), "it is in no digest meanwhile");
    let node = &origin.bodies(0..0)[0];
    let payload = Object::parse(node).unwrap().payload.to_vec();
    let node_name = ObjectName { origin: origin.id, kind: ObjectKind::NODE, id: 0 };
    let header = ObjectHeader { tombstone: false, name: node_name, version: 2, not_after: 1_010_000 };
    assert_eq!(objects.offer(over, &sign(&origin.key, &header, &payload)), Ok(Offer::Accepted));
    assert_eq!(objects.offer(over, &sek(5, false)), Ok(Offer::Outdated));
    assert!(objects.get(&name).unwrap().header.tombstone);
    // For as long as that could have been valid, and no longer.
    objects.expire(UnixMillis(1_010_000_001) + SKEW);
    assert_eq!(objects.len(), 0);
    objects.mature(UnixMillis(1_010_000_001) + SKEW);
    assert!(objects.buried.is_empty());
}
