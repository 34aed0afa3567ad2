//! R1, in the simulator: announcements, rotations, revocations, crashes, splits and healing in any order. No counter is used
//! twice under a key, nobody opens what was sealed after it was cut off, members agree in the end, and nothing is ever
//! accepted that its origin did not sign. Data planes seal a packet each tenth of a second all the while.

use core::time::Duration;
use gemcast_lab::simulator::{Byzantine, Faults, Shape, World, each_seed, each_seed_and};
use std::collections::BTreeMap;

const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);
const HOSTS: usize = 6;

/// The world, and what the administrator knows.
struct Story {
    world: World,
    /// Epoch of the latest package.
    epoch: u16,
    /// Who was cut off, and the first epoch it was not given.
    cut_off: BTreeMap<usize, u16>,
}

impl Story {
    fn begin(shape: &Shape, seed: u64) -> Self {
        let mut world = World::new(shape, seed);
        world.watch_loops = false; // hosts forget what they announced
        world.start();
        world.eventually(20 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
        Self { world, epoch: 1, cut_off: BTreeMap::new() }
    }

    fn members(&self) -> Vec<usize> {
        (0..HOSTS).filter(|host| !self.cut_off.contains_key(host)).collect()
    }

    /// A member that is up, to be told something.
    fn someone(&mut self) -> Option<usize> {
        let up: Vec<_> = self.members().into_iter().filter(|&host| self.world.hosts[host].engine.is_some()).collect();
        (!up.is_empty()).then(|| up[self.world.below(up.len())])
    }

    /// Lets time pass; looks at every packet.
    fn run(&mut self, duration: Duration) {
        let end = self.world.now() + duration;
        while self.world.now() < end {
            self.world.run(TICK);
            for packet in self.world.exchange() {
                for (host, since) in &self.cut_off {
                    let opened = packet.opened.contains(host);
                    assert!(packet.epoch < *since || !opened, "host {host}, cut off at {since}, opened {packet:?}");
                }
            }
            // Who a node is, is what it signed itself.
            for host in self.world.up() {
                for node in self.world.engine(host).nodes() {
                    let name = self.world.host_with(node.id).map(|number| format!("h{number}"));
                    assert_eq!(name, Some(node.name));
                }
            }
        }
    }

    /// Something happens.
    fn step(&mut self) {
        let host = self.world.below(HOSTS);
        let starts_in = u32::try_from(self.world.below(8)).expect("small") * SECOND;
        match self.world.below(12) {
            0 | 1 => self.world.rotate(host),
            2 => self.world.replace_at_once(host),
            3 | 4 => {
                if let Some(by) = self.someone() {
                    let members = self.members();
                    // Where an epoch in force has the place of this one, the administrator is told, and waits.
                    self.epoch += u16::from(self.world.package(by, self.epoch + 1, &members, starts_in, false));
                }
            }
            5 if self.cut_off.len() < 2 && !self.cut_off.contains_key(&host) => self.cut_off(host),
            6 => self.world.kill_control(host),
            7 => self.world.crash(host),
            8 => {
                let side: Vec<_> = (0..HOSTS).filter(|_| self.world.below(2) == 0).collect();
                self.world.split(&side);
            }
            9 => self.world.heal(),
            10 => {
                let faults = [Faults::default(), Faults::loss(10), Faults::rough()][self.world.below(3)];
                self.world.faults_everywhere(faults);
            }
            _ => self.start_everybody(),
        }
    }

    fn cut_off(&mut self, host: usize) {
        self.cut_off.insert(host, self.epoch + 1);
        let Some(by) = self.someone() else {
            self.cut_off.remove(&host);
            return;
        };
        // Some are in the hands of someone who takes no notice of being revoked, some are only left out.
        let how = self.world.below(3);
        if how == 0 {
            self.world.capture(host);
        }
        self.epoch += 1;
        let members = self.members();
        self.world.package(by, self.epoch, &members, Duration::ZERO, true);
        if how < 2 {
            self.world.revoke(by, host);
        }
    }

    fn start_everybody(&mut self) {
        for host in 0..HOSTS {
            if self.world.hosts[host].engine.is_none() {
                self.world.start_host(host);
            }
        }
    }

    /// Everything is repaired, and in the end all is as it should be.
    fn end(mut self) {
        self.world.heal();
        self.world.faults_everywhere(Faults::default());
        self.start_everybody();
        // A change of keys takes the overlap and the skew, 40 s, and keys are announced 30 s ahead.
        self.run(90 * SECOND);
        let members = self.members();
        let agreed = self.world.epochs(members[0]);
        for &host in &members {
            assert_eq!(self.world.epochs(host), agreed, "hosts {} and {host} of {members:?}", members[0]);
        }
        self.world.eventually(30 * SECOND, "members open each other", |world| world.all_open(&members));
        for packet in self.world.exchange().into_iter().filter(|packet| members.contains(&packet.from)) {
            let strangers = packet.opened.iter().filter(|host| self.cut_off.contains_key(host)).count();
            assert_eq!(strangers, 0, "{packet:?}");
        }
    }
}

#[test]
fn sim_r1_whatever_happens_in_whatever_order() {
    each_seed_and(12, 4, |seed| {
        let mut story = Story::begin(&Shape::random(HOSTS, 3, seed), seed);
        for _ in 0..30 {
            story.step();
            let pause = u32::try_from(story.world.below(40)).expect("small") * TICK;
            story.run(pause);
        }
        story.end();
    });
}

#[test]
fn sim_r1_a_liar_between_changes_nothing_in_it() {
    each_seed_and(4, 2, |seed| {
        let mut story = Story::begin(&Shape::ring(HOSTS), seed);
        story.world.hosts[3].byzantine = Some(Byzantine::AltersObjects);
        for epoch in 2..6 {
            let (by, members) = (story.world.below(3), story.members());
            story.epoch = epoch;
            story.world.package(by, epoch, &members, 3 * SECOND, false);
            story.world.rotate(epoch as usize % HOSTS);
            story.run(15 * SECOND);
        }
        let refused: u64 = story.world.up().map(|host| story.world.engine(host).counters.refused_object).sum();
        assert!(refused > 0, "its lies were noticed");
        story.world.hosts[3].byzantine = None;
        story.end();
    });
}

#[test]
fn sim_r1_who_is_cut_off_opens_nothing_five_seconds_later_even_where_packets_are_lost() {
    each_seed(8, |seed| {
        let mut story = Story::begin(&Shape::segment(HOSTS), seed);
        story.world.faults_everywhere(Faults::loss(1));
        let host = story.world.below(HOSTS);
        story.world.capture(host);
        story.cut_off(host);
        let members = story.members();
        story.run(5 * SECOND);
        let open = story.world.exchange();
        assert!(open.iter().all(|packet| packet.from == host || !packet.opened.contains(&host)), "{open:?}");
        let of_members = open.iter().filter(|packet| members.contains(&packet.from));
        assert!(
            of_members.clone().all(|packet| packet.epoch == 2 && packet.opened.len() == members.len() - 1),
            "{open:?}"
        );
        assert_eq!(of_members.count(), members.len());
    });
}

#[test]
fn sim_r1_two_hundred_rotations_and_twenty_group_keys_lose_nothing_at_one_percent_loss() {
    each_seed_and(2, 1, |seed| {
        let mut story = Story::begin(&Shape::segment(HOSTS), seed);
        story.world.faults_everywhere(Faults::loss(1));
        let members = story.members();
        for rotation in 0..220u16 {
            if rotation % 11 == 10 {
                story.epoch += 1;
                let by = story.world.below(HOSTS);
                story.world.package(by, story.epoch, &members, 45 * SECOND, false);
            } else {
                story.world.rotate(usize::from(rotation) % HOSTS);
            }
            for _ in 0..60 {
                story.world.run(TICK);
                for packet in story.world.exchange() {
                    assert_eq!(packet.opened.len(), HOSTS - 1, "a gap at {:?}: {packet:?}", story.world.now());
                }
            }
        }
        assert_eq!(story.epoch, 21);
    });
}
