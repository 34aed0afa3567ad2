//! A gateway that holds the bootstrap key and lies: it alters what it passes on, and authenticates the result anew.

use core::net::Ipv6Addr;
use gemcast_engine::derive::babel_mac_key;
use gemcast_engine::kmg::node_id;
use gemcast_engine::secret::Secret;
use gemcast_proto::wire::babel::{GROUP, HEADER_LEN, Packet, kind};
use gemcast_proto::wire::gem;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;
use ring::hmac;
use ring::signature::{Ed25519KeyPair, KeyPair};

/// Bootstrap key of the simulated domain.
pub(super) const BOOTSTRAP_KEY: [u8; 32] = [9; 32];
/// Babel port of the simulated domain.
pub(super) const PORT: u16 = 6696;

/// How a gateway lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Byzantine {
    /// Flips a bit in every GEM object it sends.
    AltersObjects,
    /// Sends every other packet with random bytes in the TLVs after the packet counter.
    SendsGarbage,
    /// Signs another object each time it sends one of its own, under the same name and version.
    ContradictsItself,
}

impl Byzantine {
    /// The packet that leaves instead of one.
    pub(super) fn lie(
        self,
        rng: &mut ChaCha8Rng,
        seed: [u8; 32],
        source: Ipv6Addr,
        unicast: Option<Ipv6Addr>,
        payload: Vec<u8>,
    ) -> Vec<u8> {
        let Ok(packet) = Packet::parse(&payload) else { return payload };
        let mut altered = packet.signed().to_vec();
        let mut at = HEADER_LEN;
        for tlv in packet.body().flatten() {
            let body = at + 2..at + 2 + tlv.body.len();
            match self {
                Self::AltersObjects if tlv.kind == gem::OBJECT => {
                    let position = body.start + usize::try_from(rng.next_u64() % tlv.body.len() as u64).expect("small");
                    altered[position] ^= 1 << (rng.next_u32() % 8);
                }
                Self::ContradictsItself if tlv.kind == gem::OBJECT => {
                    contradict(rng, seed, altered.get_mut(body.clone()).unwrap_or_default());
                }
                Self::SendsGarbage if tlv.kind != kind::PC => {
                    rng.fill_bytes(altered.get_mut(body.clone()).unwrap_or_default());
                }
                _ => {}
            }
            at = if tlv.kind == kind::PAD1 { at + 1 } else { body.end };
        }
        sign(source, unicast.unwrap_or(GROUP), &mut altered);
        if self == Self::SendsGarbage && rng.next_u32().is_multiple_of(2) { payload } else { altered }
    }
}

/// Changes the content of an object of our own, and signs it anew.
fn contradict(rng: &mut ChaCha8Rng, seed: [u8; 32], body: &mut [u8]) {
    /// Inside the second key of a NODE, and the salt of a SEK.
    const AT: usize = gem::HEADER_LEN + 40;
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).expect("every seed is a key");
    let own = node_id(key.public_key().as_ref().try_into().expect("32 bytes"));
    let Some((signed, signature)) = body.split_last_chunk_mut::<{ gem::SIGNATURE_LEN }>() else { return };
    if signed.len() > AT && signed[2..10] == own.0 {
        signed[AT] = rng.next_u32().to_ne_bytes()[0];
        let label = gem::SIGNATURE_LABEL;
        signature.copy_from_slice(key.sign(&[label, signed].concat()).as_ref());
    }
}

/// RFC 8967 §4.1, as an attacker with the key would do it.
fn sign(source: Ipv6Addr, destination: Ipv6Addr, packet: &mut Vec<u8>) {
    let key = hmac::Key::new(hmac::HMAC_SHA256, babel_mac_key(&Secret::new(BOOTSTRAP_KEY)).expose());
    let mut context = hmac::Context::with_key(&key);
    for address in [source, destination] {
        context.update(&address.octets());
        context.update(&PORT.to_be_bytes());
    }
    context.update(packet);
    let mac = context.sign();
    packet.extend([kind::MAC, 32]);
    packet.extend(mac.as_ref());
}
