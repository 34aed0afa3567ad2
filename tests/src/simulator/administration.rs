//! What the administrator does to a world, and what members can read of each other.

use super::World;
use super::host::{administrator, config, group, seed_of};
use core::time::Duration;
use gemcast_engine::Engine;
use gemcast_engine::derive::agreement_public_key;
use gemcast_engine::inject::InjectError;
use gemcast_engine::input::Input;
use gemcast_engine::kmg::{Member, Package};
use gemcast_engine::secret::Secret;
use gemcast_engine::time::Now;
use gemcast_proto::id::Epoch;
use rand_chacha::rand_core::RngCore;

/// A packet that was sealed somewhere, and who opened it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Who sealed it.
    pub from: usize,
    /// Epoch of the group key it is bound to.
    pub epoch: u16,
    /// Who opened it.
    pub opened: Vec<usize>,
}

impl World {
    /// A number below `bound` from the world's seed.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.next_u64() % bound as u64).expect("below a usize")
    }

    /// Hands objects to a host that is up, as its operator does. Whether it took them.
    ///
    /// # Panics
    /// When they are refused for another reason than that an epoch in force has their place.
    pub fn inject(&mut self, host: usize, bodies: &[Vec<u8>]) -> bool {
        let now = self.time(host);
        let Some(engine) = &mut self.hosts[host].engine else { return false };
        let injected = engine.inject(now, bodies);
        self.drain(host);
        match injected {
            Err(InjectError::Displaces { .. }) => false,
            injected => injected.map(|_| true).expect("the administrator's objects"),
        }
    }

    /// What a host's operator does.
    ///
    /// # Panics
    /// When the host is down.
    pub fn operate<R>(&mut self, host: usize, act: impl FnOnce(&mut Engine, Now) -> R) -> R {
        let now = self.time(host);
        let result = act(self.hosts[host].engine.as_mut().expect("the host is up"), now);
        self.drain(host);
        result
    }

    /// The administrator makes a group key for members and hands it to one of the hosts. Whether that took it.
    pub fn package(&mut self, by: usize, epoch: u16, to: &[usize], starts_in: Duration, emergency: bool) -> bool {
        let member = |&host: &usize| Member {
            node: self.hosts[host].id,
            agreement_key: agreement_public_key(&Secret::new(seed_of(host))),
        };
        let members: Vec<_> = to.iter().map(member).collect();
        let wall = self.true_time();
        let activate_at = wall + starts_in;
        let package = Package { group: group(), epoch: Epoch(epoch), activate_at, emergency, members: &members };
        let mut random = [[0; 32]; 2];
        random.iter_mut().for_each(|bytes| self.rng.fill_bytes(bytes));
        let [gak, seed] = random;
        let made = administrator().package(&package, &Secret::new(gak), wall.0, seed).expect("members are distinct");
        self.inject(by, &[vec![administrator().node("kmg", wall.0)], made].concat())
    }

    /// The administrator revokes a host, and tells another.
    pub fn revoke(&mut self, by: usize, host: usize) {
        let (node, version) = (self.hosts[host].id, self.true_time().0);
        self.inject(by, &[administrator().node("kmg", version), administrator().revoke(node, version)]);
    }

    /// Someone takes a host over: from now on it takes no notice of the administrator.
    pub fn capture(&mut self, host: usize) {
        self.hosts[host].captured = true;
        let captured = config(host, self.hosts[host].member, true);
        self.handle(host, Input::Reconfigure(Box::new(captured)));
    }

    /// A host makes a new key at once, the ones before never to be accepted again.
    pub fn replace_at_once(&mut self, host: usize) {
        self.handle(host, Input::ReplaceSek(group()));
    }

    /// Every data plane seals a packet and everybody hears it: what was opened by whom.
    ///
    /// # Panics
    /// When a counter is used twice under a key.
    pub fn exchange(&mut self) -> Vec<Delivery> {
        let mut deliveries = vec![];
        for from in 0..self.hosts.len() {
            let maps = &mut self.hosts[from].maps;
            let Some(&key_id) = maps.active.get(&group()) else { continue };
            let (key, traffic) = maps.keys[&key_id];
            let counter = maps.counters.get_mut(&key_id).expect("a key that seals has counters");
            *counter += 1;
            let before = self.sealed.insert(key_id, *counter).unwrap_or(0);
            assert!(*counter > before, "host {from} uses counter {counter} of key {key_id} twice");
            let opens = |host: &usize| {
                let maps = &self.hosts[*host].maps;
                let same = |found: &(_, [u8; 32])| found.1 == traffic;
                *host != from
                    && maps.gtags.contains_key(&(group(), key.epoch))
                    && maps.keys.get(&key_id).is_some_and(same)
            };
            let opened = (0..self.hosts.len()).filter(opens).collect();
            deliveries.push(Delivery { from, epoch: key.epoch.0, opened });
        }
        deliveries
    }

    /// Epochs that a host accepts.
    pub fn epochs(&self, host: usize) -> Vec<u16> {
        self.engine(host).groups().iter().flat_map(|group| group.epochs.iter().map(|epoch| epoch.0)).collect()
    }
}
