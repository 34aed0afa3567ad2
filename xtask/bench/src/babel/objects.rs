//! How fast objects are taken in: two engines in one process, one of which has 10,000 and the other none.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use gemcast_control::clock;
use gemcast_engine::Engine;
use gemcast_engine::input::{Input, Interface, Packet};
use gemcast_engine::output::Output;
use gemcast_engine::secret::Secret;
use gemcast_engine::time::Now;
use gemcast_proto::wire::babel::GROUP;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::Serialize;

use super::Load;
use super::speaker::{Domain, config};
use crate::statistics::Spread;

/// Objects of one origin, and so many SEKs of it.
const OBJECTS: u32 = 10_000;
/// Bytes of a SEK object that are signed.
const SIGNED_LEN: usize = 160;
const VERIFICATIONS: u32 = 2_000;
const PORT: u16 = 6696;

/// What was found.
#[derive(Serialize)]
pub(crate) struct Rates {
    /// Ed25519 signatures that ring verifies, per second of CPU.
    pub(crate) ring_verifications_per_s: Spread,
    /// Objects taken in, per second of CPU of who takes them in: MAC, signature, tables.
    pub(crate) taken_in_per_s: Spread,
    /// The same for a member, who unwraps the keys in them as well.
    pub(crate) learnt_per_s: Spread,
}

pub(crate) fn measure(rounds: usize) -> Rates {
    let rates: Vec<_> = (0..rounds).map(|_| (verifications(), taken_in(0), taken_in(OBJECTS))).collect();
    Rates {
        ring_verifications_per_s: Spread::of(rates.iter().map(|rates| rates.0)),
        taken_in_per_s: Spread::of(rates.iter().map(|rates| rates.1)),
        learnt_per_s: Spread::of(rates.iter().map(|rates| rates.2)),
    }
}

fn verifications() -> f64 {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("every 32 bytes are a seed");
    let message = [0x47; SIGNED_LEN];
    let (signature, public) = (key.sign(&message), key.public_key().as_ref());
    let start = Instant::now();
    for _ in 0..VERIFICATIONS {
        let public = UnparsedPublicKey::new(&ED25519, std::hint::black_box(public));
        public.verify(&message, signature.as_ref()).expect("it is right");
    }
    f64::from(VERIFICATIONS) / start.elapsed().as_secs_f64()
}

/// One of the two.
pub(crate) struct End {
    pub(crate) engine: Engine,
    pub(crate) address: Ipv6Addr,
    /// CPU that it took so far.
    pub(crate) busy: Duration,
}

impl End {
    fn new(number: u8, groups: u32, now: Now) -> Self {
        let domain =
            Domain { bootstrap_key: Secret::new([1; 32]), gak: Secret::new([2; 32]), load: Load { routes: 0, groups } };
        let address = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, number.into());
        let mut engine = Engine::new(config(number, &domain), [number; 32], now);
        let (name, link_local, ipv4) = ("wan0".into(), address, None);
        let info = Interface {
            ifindex: 1,
            name,
            link_local,
            ipv4,
            addresses: vec![],
            mtu: 1500,
            wireless: false,
            settings: Default::default(),
        };
        engine.handle(now, Input::InterfaceUp(info));
        engine.handle(now, Input::DataPlaneUp { incarnation: 1, keys: Vec::new() });
        Self { engine, address, busy: Duration::ZERO }
    }

    /// Hands over what the other one sent.
    fn receive(&mut self, now: Now, other: &mut Self) -> usize {
        let mut packets = 0;
        while let Some(output) = other.engine.poll_output() {
            let Output::Transmit(transmit) = output else { continue };
            let destination = transmit.unicast.unwrap_or(GROUP);
            let (source, payload) = (other.address, &transmit.payload);
            let packet = Packet { ifindex: 1, source, source_port: PORT, destination, payload };
            let start = Instant::now();
            self.engine.handle(now, Input::Packet(packet));
            self.busy += start.elapsed();
            packets += 1;
        }
        packets
    }

    fn has(&self, other: &Self) -> bool {
        self.engine.nodes().iter().any(|node| node.id == other.engine.node_id() && node.seks == OBJECTS)
    }
}

/// Objects per second of the time that the receiving engine was busy with packets. Time passes from deadline to deadline.
fn taken_in(groups: u32) -> f64 {
    let (_, _, to) = taken_in_by(groups, clock::now());
    f64::from(OBJECTS) / to.busy.as_secs_f64()
}

/// Two gateways, the second a member of that many groups of the first one's, once it has all of the first one's objects.
pub(crate) fn taken_in_by(groups: u32, mut now: Now) -> (Now, End, End) {
    let (mut from, mut to) = (End::new(1, OBJECTS, now), End::new(2, groups, now));
    while !to.has(&from) {
        // They answer each other until nobody has anything to say.
        while to.receive(now, &mut from) + from.receive(now, &mut to) > 0 {}
        let next = [&from, &to].into_iter().filter_map(|end| end.engine.next_deadline()).min();
        let Some(next) = next.filter(|&next| next > now.mono) else {
            from.engine.handle_timeout(now);
            to.engine.handle_timeout(now);
            continue;
        };
        now.wall = now.wall + (next - now.mono);
        now.mono = next;
        from.engine.handle_timeout(now);
        to.engine.handle_timeout(now);
    }
    (now, from, to)
}
