//! The whole control plane: an engine with one neighbour, which holds the bootstrap key and says what it likes.
//!
//! The input is a script of steps, `kind u8, length u8, bytes`: packets, authenticated or not, signed objects, time that
//! passes, and what the data plane and the operator say meanwhile.

use core::net::Ipv6Addr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use gemcast_engine::Engine;
use gemcast_engine::config::{Babel, Config, GroupConfig, Membership, Node, Protection};
use gemcast_engine::derive::babel_mac_key;
use gemcast_engine::input::{Input, Interface, Packet};
use gemcast_engine::output::Output;
use gemcast_engine::secret::Secret;
use gemcast_engine::time::{Instant, Now, UnixMillis};
use gemcast_engine::view::Counters;
use gemcast_proto::id::{Epoch, Group, KeyId, NodeId, Suite};
use gemcast_proto::wire::babel::{self, GROUP, MAGIC, Tlv, VERSION, kind};
use gemcast_proto::wire::gem::{self, SIGNATURE_LABEL};
use ring::signature::{Ed25519KeyPair, KeyPair};
use ring::{digest, hmac};

/// Steps of one input; what follows is not looked at.
const MAX_STEPS: usize = 64;
/// Time that one input may let pass in all: its deadlines are what costs time here.
const MAX_TIME: Duration = Duration::from_secs(60);
const PORT: u16 = 6696;
const IFINDEX: u32 = 1;
const MTU: u32 = 1500;
const OURS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const THEIRS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);
const BOOTSTRAP_KEY: [u8; 32] = [9; 32];
const THEIR_SEED: [u8; 32] = [0x77; 32];
/// When it all begins, on the wall clock.
pub const START: UnixMillis = UnixMillis(1_800_000_000_000);
/// Group key of [`group`], epoch 1.
pub const GAK: [u8; 32] = [7; 32];

/// What a step does; the rest of a byte past these wraps around.
pub mod step {
    /// A datagram from the neighbour's address, as it is.
    pub const DATAGRAM: u8 = 0;
    /// A datagram from an address that no neighbour can have, or from another port.
    pub const FOREIGN: u8 = 1;
    /// A packet whose body ends in these bytes, authenticated, to everyone.
    pub const MULTICAST: u8 = 2;
    /// The same to us alone.
    pub const UNICAST: u8 = 3;
    /// Head and payload of an object, signed by the neighbour and sent by it.
    pub const OBJECT: u8 = 4;
    /// So many milliseconds pass, a u16.
    pub const TIME: u8 = 5;
    /// What the rest of the gateway says: the first byte chooses.
    pub const LOCAL: u8 = 6;
    /// How many there are.
    pub const COUNT: u8 = 7;
}

/// The group that the engine seals.
pub fn group() -> Group {
    "239.1.1.1".parse().expect("a group")
}

/// The neighbour's keys.
pub(crate) fn their_key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&THEIR_SEED).expect("every 32 bytes are an Ed25519 seed")
}

/// The neighbour's node id.
pub(crate) fn their_id() -> NodeId {
    let digest = digest::digest(&digest::SHA256, their_key().public_key().as_ref());
    NodeId(*digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
}

/// Runs the script.
pub fn check(data: &[u8]) {
    let mut world = World::new();
    world.introduce();
    let mut rest = data;
    for _ in 0..MAX_STEPS {
        let [kind, len, tail @ ..] = rest else { break };
        let (bytes, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        world.step(kind % step::COUNT, bytes);
    }
    world.pass(Duration::from_millis(200));
    let groups = world.engine.groups();
    assert!(groups[0].active_key.is_some(), "nothing a neighbour says takes our own key");
}

struct World {
    engine: Engine,
    now: Instant,
    mac_key: hmac::Key,
    counter: u32,
    /// Keys in the map; whether each is ours.
    installed: BTreeMap<KeyId, bool>,
    challenge: Option<Vec<u8>>,
    time_left: Duration,
}

impl World {
    fn new() -> Self {
        let gaks = vec![(Epoch(1), Secret::new(GAK))];
        let protection = Protection::Sealed { suite: Suite::Aes256Gcm, gaks };
        let config = Config {
            node: Node { name: "us".into(), signing_seed: Secret::new([1; 32]), agreement_key: Secret::new([1; 32]) },
            bootstrap_keys: vec![Secret::new(BOOTSTRAP_KEY)],
            groups: vec![GroupConfig { group: group(), protection, send: true, receive: true }],
            administrators: vec![],
            membership: Membership::Open,
            clock_floor: UnixMillis(0),
            hello_interval: Duration::from_secs(1),
            update_interval: Duration::from_secs(10),
            detection: Default::default(),
            policy: Default::default(),
            sek_lifetime: Duration::from_secs(3600),
            announce_lead: Duration::from_secs(30),
            overlap: Duration::from_secs(10),
            babel: Babel::default(),
        };
        let now = Instant(1_000_000);
        let mac_key = hmac::Key::new(hmac::HMAC_SHA256, babel_mac_key(&Secret::new(BOOTSTRAP_KEY)).expose());
        let engine = Engine::new(config, [3; 32], Now { mono: now, wall: START });
        let mut world =
            Self { engine, now, mac_key, counter: 0, installed: BTreeMap::new(), challenge: None, time_left: MAX_TIME };
        world.interface_up();
        world.handle(Input::DataPlaneUp { incarnation: 1, keys: Vec::new() }, 0);
        world
    }

    fn interface_up(&mut self) {
        let name = "wan0".into();
        let info = Interface {
            ifindex: IFINDEX,
            name,
            link_local: OURS,
            ipv4: None,
            addresses: vec![],
            mtu: MTU,
            wireless: false,
            settings: Default::default(),
        };
        self.handle(Input::InterfaceUp(info), 0);
    }

    /// The neighbour proves that it is alive (RFC 8967 §4.3).
    fn introduce(&mut self) {
        self.send(GROUP, &[]);
        self.pass(Duration::from_millis(20));
        let nonce = self.challenge.take().expect("who is new is challenged");
        let reply = [&[kind::CHALLENGE_REPLY, u8::try_from(nonce.len()).expect("a nonce")], &nonce[..]].concat();
        let refused = self.engine.counters.refused_replay;
        self.send(GROUP, &reply);
        assert_eq!(self.engine.counters.refused_replay, refused, "who answered is heard");
    }

    fn step(&mut self, kind: u8, bytes: &[u8]) {
        match kind {
            step::DATAGRAM => self.receive(THEIRS, PORT, GROUP, bytes),
            step::FOREIGN => {
                self.receive(Ipv6Addr::LOCALHOST, PORT, GROUP, bytes);
                self.receive(THEIRS, PORT - 1, GROUP, bytes);
                self.receive(OURS, PORT, GROUP, bytes);
            }
            step::MULTICAST => self.send(GROUP, bytes),
            step::UNICAST => self.send(OURS, bytes),
            step::OBJECT => {
                let mut signed = bytes[..bytes.len().min(gem::MAX_BODY_LEN - gem::SIGNATURE_LEN)].to_vec();
                if let Some(origin) = signed.get_mut(2..10) {
                    origin.copy_from_slice(&their_id().0);
                }
                let signature = their_key().sign(&[SIGNATURE_LABEL, &signed].concat());
                let body = [&signed, signature.as_ref()].concat();
                self.send(GROUP, &[&[gem::OBJECT, u8::try_from(body.len()).expect("cut above")], &body[..]].concat());
            }
            step::TIME => {
                let [high, low, ..] = bytes else { return };
                let pause = Duration::from_millis(u16::from_be_bytes([*high, *low]).into()).min(self.time_left);
                self.time_left -= pause;
                self.pass(pause);
            }
            _ => self.local(bytes),
        }
    }

    fn local(&mut self, bytes: &[u8]) {
        match bytes.first().map(|byte| byte % 6) {
            Some(0) => self.handle(Input::RotateSek(group()), 0),
            Some(1) => {
                let key_id = KeyId(bytes.get(1..5).map_or(5, |id| u32::from_be_bytes(id.try_into().expect("4"))));
                self.handle(Input::MissingKey { key_id, group: group(), epoch: Epoch(1) }, 0);
            }
            Some(2) => {
                let ours = self.installed.iter().find(|(_, ours)| **ours).map(|(&key_id, _)| key_id);
                let packets = bytes.get(1..9).map_or(1 << 40, |n| u64::from_be_bytes(n.try_into().expect("8")));
                self.handle(Input::Sealed { key_id: ours.unwrap_or(KeyId(5)), packets }, 0);
            }
            Some(3) => {
                self.handle(Input::InterfaceDown(IFINDEX), 0);
                self.interface_up();
            }
            Some(4) => {
                self.handle(Input::DataPlaneDown, 0);
                self.installed.clear();
                self.handle(Input::DataPlaneUp { incarnation: self.now.0, keys: Vec::new() }, 0);
            }
            _ => self.handle(Input::Originate(Vec::new()), 0),
        }
    }

    /// The neighbour sends a packet whose body is a packet counter and these bytes, with a MAC (RFC 8967 §4.1).
    fn send(&mut self, destination: Ipv6Addr, body: &[u8]) {
        self.counter += 1;
        let index = b"theirs";
        let body_len = u16::try_from(2 + 4 + index.len() + body.len()).expect("a step has 255 bytes");
        let mut packet = vec![MAGIC, VERSION];
        packet.extend(body_len.to_be_bytes());
        packet.extend([kind::PC, 4 + 6]);
        packet.extend(self.counter.to_be_bytes());
        packet.extend(index);
        packet.extend(body);
        let mac = self.mac(THEIRS, destination, &packet);
        packet.extend([kind::MAC, 32]);
        packet.extend(mac.as_ref());
        let before = self.engine.counters;
        self.receive(THEIRS, PORT, destination, &packet);
        assert_eq!(self.engine.counters.refused_mac, before.refused_mac, "the MAC is right");
    }

    fn mac(&self, source: Ipv6Addr, destination: Ipv6Addr, packet: &[u8]) -> hmac::Tag {
        let port = PORT.to_be_bytes();
        let header = [&source.octets()[..], &port, &destination.octets(), &port].concat();
        hmac::sign(&self.mac_key, &[&header, packet].concat())
    }

    fn receive(&mut self, source: Ipv6Addr, source_port: u16, destination: Ipv6Addr, payload: &[u8]) {
        let before = self.engine.counters;
        let packet = Packet { ifindex: IFINDEX, source, source_port, destination, payload };
        self.handle(Input::Packet(packet), payload.len());
        let after = self.engine.counters;
        let refused = |counters: &Counters| {
            let unproven = counters.refused_malformed + counters.refused_mac + counters.refused_replay;
            unproven + counters.refused_banned
        };
        let (received, refused) =
            (after.packets_received - before.packets_received, refused(&after) - refused(&before));
        assert_eq!(received, u64::from(source != OURS), "each packet is counted, but our own");
        assert!(refused <= received, "a packet is refused once");
        if refused == 1 {
            let tlvs = |counters: &Counters| (counters.refused_tlv, counters.refused_object, counters.objects_accepted);
            assert_eq!(tlvs(&before), tlvs(&after), "nothing in a refused packet counts");
        }
    }

    /// One event, and what it makes the engine do: little for few bytes.
    fn handle(&mut self, input: Input<'_>, bytes: usize) {
        let now = self.time();
        self.engine.handle(now, input);
        let outputs = self.drain();
        assert!(outputs <= 64 + bytes, "{outputs} outputs for {bytes} bytes");
    }

    fn time(&self) -> Now {
        Now { mono: self.now, wall: UnixMillis(START.0 + self.now.0 / 1000) }
    }

    /// Lets time pass, from deadline to deadline; each is over once it was handled.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut timeouts = 0;
        while let Some(deadline) = self.engine.next_deadline().filter(|&deadline| deadline <= end) {
            self.now = self.now.max(deadline);
            let now = self.time();
            self.engine.handle_timeout(now);
            let outputs = self.drain();
            assert!(outputs <= 4096, "{outputs} outputs at one deadline");
            assert!(self.engine.next_deadline() > Some(self.now), "a deadline that was handled is over");
            timeouts += 1;
            assert!(timeouts <= 1000 + duration.as_millis(), "{timeouts} deadlines in {duration:?}");
        }
        self.now = end;
    }

    fn drain(&mut self) -> usize {
        let mut outputs = 0;
        while let Some(output) = self.engine.poll_output() {
            outputs += 1;
            match output {
                Output::Transmit(transmit) => {
                    assert_eq!(transmit.ifindex, IFINDEX);
                    self.heard(transmit.unicast.unwrap_or(GROUP), &transmit.payload);
                }
                Output::InstallKey(key) => {
                    assert!(key.key_id.is_valid() && key.group == group() && key.epoch == Epoch(1));
                    assert!(self.installed.insert(key.key_id, key.seals).is_none_or(|ours| ours == key.seals));
                }
                Output::Activate { group: of, key_id } => {
                    assert!(of == group() && self.installed.get(&key_id) == Some(&true), "only our own keys seal");
                }
                Output::RemoveKey(key_id) => {
                    assert!(self.installed.remove(&key_id).is_some(), "removed and never installed");
                }
                Output::Event(event) => assert!(!format!("{event:?}").is_empty()),
                Output::InstallGtag { .. } | Output::RemoveGtag { .. } | Output::Route(_) | Output::Transit { .. } => {}
                Output::Ban { .. } | Output::Persist { .. } | Output::StandBy { .. } | Output::Gateways(_) => {}
            }
        }
        outputs
    }

    /// What the engine sends is a packet that fits its link, in which every TLV can be read and the MAC is right.
    fn heard(&mut self, destination: Ipv6Addr, payload: &[u8]) {
        assert!(payload.len() + 48 <= MTU as usize, "{} bytes do not fit", payload.len());
        let packet = babel::Packet::parse(payload).expect("our own packet");
        let macs = packet.trailer().map(|tlv| Tlv::parse(tlv.expect("a whole TLV")).expect("a MAC"));
        let macs: Vec<_> = macs.collect();
        assert_eq!(macs, [Tlv::Mac(self.mac(OURS, destination, packet.signed()).as_ref())]);
        let mut kinds = BTreeSet::new();
        for raw in packet.body() {
            let raw = raw.expect("a whole TLV");
            kinds.insert(raw.kind);
            match Tlv::parse(raw).expect("our own TLV") {
                Tlv::ChallengeRequest(nonce) => self.challenge = Some(nonce.into()),
                Tlv::Other(raw) => match raw.kind {
                    gem::OBJECT => drop(gem::Object::parse(raw.body).expect("our own")),
                    gem::DIGEST => drop(gem::Digest::parse(raw.body).expect("our own")),
                    gem::SUMMARY => drop(gem::Summary::parse(raw.body).expect("our own")),
                    gem::REQUEST => drop(gem::Request::parse(raw.body).expect("our own")),
                    other => panic!("TLV {other}, which is not ours"),
                },
                _ => {}
            }
        }
        assert!(kinds.contains(&kind::PC), "a packet without counter");
    }
}
