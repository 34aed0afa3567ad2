//! F40: the network splits into a majority and a minority. Keys and routes need nobody's consent and converge by version;
//! a ban for everyone needs more than half of all members, so that only one side can decide it.

use core::time::Duration;
use gemcast_engine::ban::BanError;
use gemcast_engine::view::{Culprit, Quorum};
use gemcast_lab::simulator::{Shape, World, each_seed};

const SECOND: Duration = Duration::from_secs(1);
const MINORITY: [usize; 2] = [0, 1];
const MAJORITY: [usize; 3] = [2, 3, 4];

fn votes_against(world: &World, host: usize, culprit: usize) -> u32 {
    let id = world.engine(culprit).node_id();
    let all = world.engine(host).reputations(world.time(host));
    all.iter().find(|one| one.who == Culprit::Node(id)).map_or(0, |one| one.votes)
}

#[test]
fn f40_only_a_majority_decides_for_all_and_everything_else_converges() {
    each_seed(4, |seed| {
        let mut world = World::new(&Shape::ring(5), seed);
        world.tune = |config| config.policy.obey_votes = true;
        world.start();
        world.eventually(30 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
        world.eventually(60 * SECOND, "everybody reaches everybody", World::all_reach);
        let ids: Vec<_> = world.everyone().into_iter().map(|host| world.engine(host).node_id()).collect();
        let vote = |world: &mut World, by: usize, against: usize| {
            let culprit = ids[against];
            world.operate(by, |engine, now| engine.vote(now, culprit, None))
        };
        // One vote is not enough, and is this node's own ban only.
        vote(&mut world, 1, 4).expect("a quorum is there");
        world.eventually(5 * SECOND, "the vote is known everywhere", |world| {
            (0..4).all(|host| votes_against(world, host, 4) == 1)
        });
        assert!(world.engine(1).is_banned(ids[4]) && !world.engine(0).is_banned(ids[4]));

        world.split(&MINORITY);
        world.eventually(90 * SECOND, "each side knows how large it is", |world| {
            let reached = |host: usize| world.engine(host).quorum().reached;
            MINORITY.iter().all(|&host| reached(host) == 2) && MAJORITY.iter().all(|&host| reached(host) == 3)
        });
        for host in world.everyone() {
            world.rotate(host);
        }
        // The minority decides nothing, not even to take something back.
        let refused = vote(&mut world, 0, 2);
        assert_eq!(refused, Err(BanError::NoQuorum(Quorum { members: 5, reached: 2 })));
        assert!(!world.engine(0).is_banned(ids[2]));
        world.operate(1, |engine, now| engine.unban(now, Culprit::Node(ids[4]))).expect("it was banned here");
        // The majority bans one of the minority.
        for host in MAJORITY {
            vote(&mut world, host, 0).expect("a quorum is there");
        }
        world.always(30 * SECOND, "both sides go on", |world| world.all_open(&MAJORITY) && world.all_open(&MINORITY));
        assert_eq!(votes_against(&world, 1, 4), 1, "the vote stands until there is a quorum to take it back");
        assert!(MAJORITY.iter().all(|&host| world.engine(host).is_banned(ids[0])));
        assert!(!world.engine(1).is_banned(ids[0]) && !world.engine(0).is_condemned());

        world.heal();
        world.eventually(30 * SECOND, "the ban reaches the other side", |world| {
            world.engine(1).is_banned(ids[0]) && world.engine(0).is_condemned()
        });
        world.eventually(30 * SECOND, "everyone else opens everyone else", |world| world.all_open(&[1, 2, 3, 4]));
        assert!((1..5).all(|host| !world.opens(host, 0)), "nobody opens what it seals");
        world.eventually(60 * SECOND, "the vote of before is taken back", |world| votes_against(world, 2, 4) == 0);
        world.eventually(30 * SECOND, "tables are equal", World::all_synchronised);
        world.eventually(60 * SECOND, "everybody reaches everybody", World::all_reach);

        // One of the three changes its mind: two of five are no majority, whatever the two think for themselves.
        world.operate(2, |engine, now| engine.unban(now, Culprit::Node(ids[0]))).expect("it was banned here");
        world.eventually(30 * SECOND, "who does not ban it himself hears it again", |world| {
            [1, 2].iter().all(|&host| world.opens(host, 0)) && !world.engine(0).is_condemned()
        });
        assert!([3, 4].iter().all(|&host| !world.opens(host, 0)));
    });
}

#[test]
fn f40_whoever_can_be_as_many_as_it_likes_decides_nothing_by_default() {
    let mut world = World::new(&Shape::ring(3), 1);
    world.start();
    world.eventually(30 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
    world.eventually(30 * SECOND, "everybody reaches everybody", World::all_reach);
    let id = world.engine(0).node_id();
    for host in [1, 2] {
        world.operate(host, |engine, now| engine.vote(now, id, None)).expect("a quorum is there");
    }
    world.run(10 * SECOND);
    assert_eq!(votes_against(&world, 1, 0), 2);
    assert!(!world.engine(0).is_condemned(), "this domain has no roster");
}
