use super::*;
use proptest::prelude::*;

const SEGMENT: [u8; 32] = [7; 32];

fn candidates(nodes: &[u8]) -> Vec<Candidate> {
    nodes.iter().map(|&node| Candidate { node: NodeId([node; 8]), priority: 100 }).collect()
}

fn groups(count: u8) -> impl Iterator<Item = Group> + Clone {
    (0..count).map(|last| format!("239.1.1.{last}").parse().unwrap())
}

proptest! {
    #[test]
    fn f36_everyone_computes_the_same_winner(nodes in prop::collection::btree_set(0..=255_u8, 1..8), turn in 0..8_usize) {
        let nodes: Vec<_> = nodes.into_iter().collect();
        let mut turned = candidates(&nodes);
        let len = turned.len();
        turned.rotate_left(turn % len);
        for group in groups(16) {
            prop_assert_eq!(winner(&SEGMENT, &group, &candidates(&nodes)), winner(&SEGMENT, &group, &turned));
        }
    }

    #[test]
    fn f36_who_leaves_moves_only_its_own_groups(nodes in prop::collection::btree_set(0..=255_u8, 2..8), gone in 0..8_usize) {
        let nodes: Vec<_> = nodes.into_iter().collect();
        let all = candidates(&nodes);
        let mut left = all.clone();
        let gone = left.remove(gone % left.len()).node;
        for group in groups(64) {
            let before = winner(&SEGMENT, &group, &all).unwrap();
            let after = winner(&SEGMENT, &group, &left).unwrap();
            prop_assert!(before == gone || before == after, "{} moved from {} to {}", group, before, after);
        }
    }

    /// Two gateways with one view each, which may lag behind; the lag is below the handover time. Never do both forward.
    #[test]
    fn f36_a_planned_change_duplicates_nothing(
        changes in prop::collection::vec((any::<bool>(), 0..=1_u8, 0..200_u64, 400..1000_u64), 1..12),
    ) {
        let ids = [NodeId([1; 8]), NodeId([2; 8])];
        let mut roles = [Roles::default(), Roles::default()];
        let mut truth = candidates(&[1, 2]);
        for own in 0..2 {
            roles[own].elect(Instant(0), ids[own], &SEGMENT, groups(32), &truth, |_, _| true);
        }
        let mut now = 0;
        for (second, priority, lag_ms, pause_ms) in changes {
            // The gateway that changes its priority knows it first.
            let who = usize::from(second);
            truth[who].priority = priority;
            roles[who].elect(Instant(now), ids[who], &SEGMENT, groups(32), &truth, |_, _| true);
            let at = now + lag_ms * 1000;
            for step in (now..at).step_by(50_000) {
                roles[who].advance(Instant(step));
                prop_assert!(groups(32).all(|group| !(roles[0].forwards(&group) && roles[1].forwards(&group))));
            }
            roles[1 - who].elect(Instant(at), ids[1 - who], &SEGMENT, groups(32), &truth, |_, _| true);
            now = at + pause_ms * 1000;
            roles.iter_mut().for_each(|roles| _ = roles.advance(Instant(now)));
            for group in groups(32) {
                prop_assert!(roles[0].forwards(&group) != roles[1].forwards(&group), "{} has one forwarder", group);
            }
        }
    }
}

#[test]
fn f36_load_is_shared_by_group_and_a_newcomer_takes_its_share() {
    let share = |candidates: &[Candidate], node: u8| {
        groups(250).filter(|group| winner(&SEGMENT, group, candidates) == Some(NodeId([node; 8]))).count()
    };
    let three = candidates(&[1, 2, 3]);
    for node in 1..=3 {
        assert!((55..=115).contains(&share(&three, node)), "{} of 250 groups", share(&three, node));
    }
    let four = candidates(&[1, 2, 3, 4]);
    let moved = groups(250).filter(|group| winner(&SEGMENT, group, &three) != winner(&SEGMENT, group, &four));
    assert_eq!(moved.count(), share(&four, 4), "only the newcomer's groups moved");
}

#[test]
fn f36_priority_goes_before_the_hash() {
    let mut nodes = candidates(&[1, 2, 3]);
    nodes[1].priority = 101;
    assert!(groups(50).all(|group| winner(&SEGMENT, &group, &nodes) == Some(NodeId([2; 8]))));
    assert_eq!(winner(&SEGMENT, &groups(1).next().unwrap(), &[]), None);
}

#[test]
fn f10_groups_of_a_lost_gateway_are_taken_up_at_once() {
    let (own, now) = (NodeId([1; 8]), Instant(5_000_000));
    let mut roles = Roles::default();
    roles.elect(now, own, &SEGMENT, groups(20), &candidates(&[2]), |_, _| true);
    assert_eq!(roles.forwarded(), 0);
    roles.elect(now, own, &SEGMENT, groups(20), &candidates(&[1]), |_, _| true);
    assert_eq!((roles.forwarded(), roles.deadline()), (20, None));
}

#[test]
fn f36_who_is_handed_a_group_does_not_wait_for_one_that_died_meanwhile() {
    let (own, now) = (NodeId([1; 8]), Instant(5_000_000));
    let mut roles = Roles::default();
    roles.elect(now, own, &SEGMENT, groups(20), &candidates(&[2]), |_, _| true);
    roles.elect(now, own, &SEGMENT, groups(20), &candidates(&[1, 2]), |_, _| true);
    assert_eq!((roles.forwarded(), roles.deadline()), (0, Some(now + HANDOVER)));
    roles.elect(now, own, &SEGMENT, groups(20), &candidates(&[1]), |_, _| true);
    assert_eq!((roles.forwarded(), roles.deadline()), (20, None));
}
