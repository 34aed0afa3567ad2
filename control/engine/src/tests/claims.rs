//! Key ids that somebody announces who has no such key.

use super::rig::{Options, Rig, config, group, members};
use crate::config::Membership;
use crate::derive;
use crate::input::Input;
use crate::kmg::Administrator;
use crate::object::{self, sign};
use crate::secret::Secret;
use core::time::Duration;
use gemcast_proto::id::{Epoch, KeyId, NodeId};
use gemcast_proto::wire::gem::{NodePayload, ObjectHeader, ObjectKind, ObjectName, SekPayload};
use ring::signature::{Ed25519KeyPair, KeyPair};

const SECOND: Duration = Duration::from_secs(1);

/// A holder of the bootstrap key that is no member.
struct Squatter(Ed25519KeyPair);

impl Squatter {
    fn new() -> Self {
        Self::with_seed(0xaa)
    }

    fn with_seed(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn id(&self) -> NodeId {
        object::node_id_of(self.0.public_key().as_ref().try_into().unwrap())
    }

    fn tell(&self, rig: &mut Rig, host: usize, kind: ObjectKind, id: u64, tombstone: bool, payload: &[u8]) {
        let now = rig.time();
        let name = ObjectName { origin: self.id(), kind, id };
        let not_after = u32::try_from(now.wall.0 / 1000 + 86_400).unwrap();
        let header = ObjectHeader { tombstone, name, version: now.wall.0, not_after };
        let engine = &mut rig.hosts[host].engine;
        engine.objects.offer(now.wall, &sign(&self.0, &header, payload)).unwrap();
        engine.object_changed(now, None, &header);
        // What it has to say about that is carried out.
        rig.handle(host, Input::GatewaysHeard(vec![]));
    }

    fn announce_node(&self, rig: &mut Rig, host: usize) {
        let signing_key = self.0.public_key().as_ref().try_into().unwrap();
        let mut payload = [0; NodePayload::MAX_LEN];
        let agreement_key = derive::agreement_public_key(&Secret::new([0xaa; 32]));
        let len = NodePayload { signing_key, agreement_key, name: "squatter" }.emit(&mut payload);
        self.tell(rig, host, ObjectKind::NODE, 0, false, &payload[..len]);
    }

    /// Announces an id as that of a key of its own, with noise for a secret.
    fn claim(&self, rig: &mut Rig, host: usize, key_id: KeyId) {
        let (salt, wrapped) = ([5; 16], [6; 48]);
        let not_before_ms = rig.time().wall.0;
        let payload = SekPayload { group: group(), epoch: Epoch(1), key_id, suite: 1, not_before_ms, salt, wrapped };
        self.tell(rig, host, ObjectKind::SEK, key_id.0.into(), false, &payload.to_bytes());
    }

    fn withdraw(&self, rig: &mut Rig, host: usize, key_id: KeyId) {
        self.tell(rig, host, ObjectKind::SEK, key_id.0.into(), true, &[]);
    }
}

/// Three hosts in a row; host 1 starts anew, and hears of the key of host 0 from a squatter first.
fn squatted(relay: Options) -> (Rig, Squatter, KeyId) {
    let mut hosts: Vec<_> = members(3).collect();
    let again = Options { member: relay.member, administrators: relay.administrators.clone(), ..Options::default() };
    hosts[1] = relay;
    let mut rig = Rig::new(hosts, &[&[0, 1], &[1, 2]]);
    rig.run_until(10 * SECOND, |rig| rig.opens(2, 0));
    let (squatter, key_id) = (Squatter::new(), rig.active(0));
    rig.hosts[1].maps = super::rig::Maps { incarnation: 9, ..Default::default() };
    rig.loses = Box::new(|_, _, _| true);
    rig.restart_control(1, &again);
    squatter.announce_node(&mut rig, 1);
    squatter.claim(&mut rig, 1, key_id);
    rig.loses = Box::new(|_, _, _| false);
    (rig, squatter, key_id)
}

#[test]
fn r9_a_key_that_unwraps_takes_its_id_from_who_only_claims_it() {
    let (mut rig, squatter, key_id) = squatted(Options::default());
    assert_eq!(rig.hosts[1].engine.origin_of(key_id), Some(squatter.id()));
    rig.run_until(10 * SECOND, |rig| rig.opens(1, 0));
    rig.run(10 * SECOND);
    assert_eq!(rig.hosts[1].engine.origin_of(key_id), Some(rig.hosts[0].engine.node_id()));
    assert_eq!(rig.hosts[1].maps.transit[&key_id], Some(0), "relayed from its side");
    squatter.withdraw(&mut rig, 1, key_id);
    assert!(rig.opens(1, 0));
}

#[test]
fn r9_where_nobody_can_tell_the_right_key_has_its_id_once_the_claim_is_withdrawn() {
    let (mut rig, squatter, key_id) = squatted(Options { member: false, ..Options::default() });
    rig.run(10 * SECOND);
    assert_eq!(rig.hosts[1].engine.origin_of(key_id), Some(squatter.id()), "the first one");
    squatter.withdraw(&mut rig, 1, key_id);
    assert_eq!(rig.hosts[1].engine.origin_of(key_id), Some(rig.hosts[0].engine.node_id()));
    assert_eq!(rig.hosts[1].maps.transit[&key_id], Some(0));
}

#[test]
fn r9_a_revoked_squatter_takes_no_key_id_along() {
    let administrator = Administrator::new(&Secret::new([0xdd; 32]));
    let relay = Options { member: false, administrators: vec![administrator.public_key()], ..Options::default() };
    let (mut rig, squatter, key_id) = squatted(relay);
    rig.run(10 * SECOND);
    let wall = rig.time().wall.0;
    let said = [administrator.node("head office", wall), administrator.revoke(squatter.id(), wall)];
    rig.inject(1, &said).unwrap();
    rig.run(SECOND);
    assert!(rig.hosts[1].engine.objects.is_revoked(squatter.id()));
    assert!(rig.hosts[1].maps.bans.is_empty(), "packets under it are of somebody else");
    assert_eq!(rig.hosts[1].engine.origin_of(key_id), Some(rig.hosts[0].engine.node_id()));
}

#[test]
fn r5_tables_that_cannot_be_equal_do_not_keep_their_neighbours_busy() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(10 * SECOND, |rig| rig.tables_equal());
    // Host 0 keeps nothing of unlisted nodes, and host 1 has much of it.
    let mut strict = config(0, &Options::default());
    strict.membership = Membership::Roster;
    rig.handle(0, Input::Reconfigure(Box::new(strict)));
    let squatter = Squatter::new();
    squatter.announce_node(&mut rig, 1);
    (1..200).for_each(|id| squatter.claim(&mut rig, 1, KeyId(id)));
    rig.run(60 * SECOND);
    let sent = rig.hosts[1].engine.counters.objects_sent;
    assert!(rig.hosts[0].engine.counters.refused_quota > 0);
    rig.run(300 * SECOND);
    let comparisons = (rig.hosts[1].engine.counters.objects_sent - sent) / 199;
    // Every other second without a rest.
    assert!(comparisons <= 75, "{comparisons} times in five minutes");
}

#[test]
fn r5_who_announces_keys_without_number_leaves_others_their_share_of_what_is_relayed() {
    let mut hosts: Vec<_> = members(4).collect();
    hosts[1].member = false;
    let mut rig = Rig::new(hosts, &[&[0, 1], &[1, 2], &[1, 3]]);
    rig.handle(1, Input::TransitRoom(6));
    rig.run_until(10 * SECOND, |rig| rig.opens(2, 0) && rig.opens(2, 3));
    // Host 3 is not what it seems.
    let squatter = Squatter::with_seed(4);
    (1..50).for_each(|id| squatter.claim(&mut rig, 1, KeyId(id)));
    let relayed = |rig: &Rig| rig.hosts[1].maps.transit.iter().filter(|(_, from)| from.is_some()).count();
    assert_eq!(relayed(&rig), 6, "no more than there is room for");
    rig.handle(0, Input::RotateSek(group()));
    rig.handle(2, Input::RotateSek(group()));
    rig.run_until(50 * SECOND, |rig| {
        [0, 2].iter().all(|&host| rig.hosts[1].maps.transit.get(&rig.active(host)).is_some_and(Option::is_some))
    });
    assert_eq!(relayed(&rig), 6);
    (50..100).for_each(|id| squatter.claim(&mut rig, 1, KeyId(id)));
    rig.run(120 * SECOND);
    assert!([0, 2].iter().all(|&host| rig.hosts[1].maps.transit[&rig.active(host)].is_some()));
    // Once it is gone, everything finds room that is left.
    (1..100).for_each(|id| squatter.withdraw(&mut rig, 1, KeyId(id)));
    rig.run(120 * SECOND);
    assert!([0, 2, 3].iter().all(|&host| rig.hosts[1].maps.transit[&rig.active(host)].is_some()));
}
