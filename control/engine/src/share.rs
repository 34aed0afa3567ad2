//! Group keys on their way to one member: HPKE (RFC 9180) in base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
//! ChaCha20-Poly1305.
//!
//! What the key is for is in HPKE's info, so that a share opens for its group, epoch, member and administrator only. Who
//! made it is told by the signature of the object around it.

use crate::secret::Secret;
use gemcast_proto::id::{Epoch, GROUP_LEN, Group, NodeId};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand_chacha::rand_core::CryptoRng;

type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;

const LABEL: &[u8; 18] = b"gemcast1 gak share";
const INFO_LEN: usize = LABEL.len() + GROUP_LEN + 2 + 8 + 8;

/// What a share is bound to.
#[derive(Clone, Copy)]
pub(crate) struct Binding {
    pub(crate) group: Group,
    pub(crate) epoch: Epoch,
    pub(crate) member: NodeId,
    pub(crate) administrator: NodeId,
}

impl Binding {
    fn info(&self) -> [u8; INFO_LEN] {
        let mut info = [0; INFO_LEN];
        let mut rest = &mut info[..];
        let (group, epoch) = (self.group.to_bytes(), self.epoch.0.to_be_bytes());
        for field in [&LABEL[..], &group, &epoch, &self.member.0, &self.administrator.0] {
            let (place, behind) = rest.split_at_mut(field.len());
            place.copy_from_slice(field);
            rest = behind;
        }
        info
    }
}

/// Encrypts a group key to the holder of an X25519 key; returns the encapsulated key and the ciphertext. `None` when the
/// public key is none that anything may be encrypted to (RFC 7748 §6.1: an all-zero shared secret).
pub(crate) fn seal(
    rng: &mut impl CryptoRng,
    public_key: &[u8; 32],
    binding: &Binding,
    gak: &Secret<32>,
) -> Option<([u8; 32], [u8; 48])> {
    let mut ciphertext = [0; 48];
    ciphertext[..32].copy_from_slice(gak.expose());
    let enc = seal_in_place(rng, public_key, &binding.info(), &[], &mut ciphertext)?;
    Some((enc, ciphertext))
}

/// Undoes [`seal`]; `None` when it was sealed to another key, for something else, or altered.
pub(crate) fn open(
    private_key: &Secret<32>,
    binding: &Binding,
    enc: &[u8; 32],
    ciphertext: &[u8; 48],
) -> Option<Secret<32>> {
    let mut text = zeroize::Zeroizing::new(*ciphertext);
    let gak: &[u8; 32] = open_in_place(private_key, &binding.info(), &[], enc, &mut *text)?.try_into().ok()?;
    Some(Secret::filled(|to| *to = *gak))
}

/// The last 16 bytes of `text` are room for the tag.
fn seal_in_place(
    rng: &mut impl CryptoRng,
    public_key: &[u8; 32],
    info: &[u8],
    aad: &[u8],
    text: &mut [u8],
) -> Option<[u8; 32]> {
    let public_key = PublicKey::from_bytes(public_key).ok()?;
    let (text, place) = text.split_last_chunk_mut::<16>()?;
    let (enc, tag) = hpke::single_shot_seal_in_place_detached::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256, _>(
        &OpModeS::Base,
        &public_key,
        info,
        text,
        aad,
        rng,
    )
    .ok()?;
    place.copy_from_slice(&tag.to_bytes());
    Some(enc.to_bytes().into())
}

fn open_in_place<'a>(
    private_key: &Secret<32>,
    info: &[u8],
    aad: &[u8],
    enc: &[u8; 32],
    text: &'a mut [u8],
) -> Option<&'a [u8]> {
    let private_key = PrivateKey::from_bytes(private_key.expose()).ok()?;
    let enc = EncappedKey::from_bytes(enc).ok()?;
    let (text, tag) = text.split_last_chunk_mut::<16>()?;
    let tag = hpke::aead::AeadTag::from_bytes(tag).ok()?;
    hpke::single_shot_open_in_place_detached::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private_key,
        &enc,
        info,
        text,
        aad,
        &tag,
    )
    .ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn array<const N: usize>(hex: &str) -> [u8; N] {
        bytes(hex).try_into().unwrap()
    }

    /// Gives the bytes that it was made of, once.
    struct Fixed(Vec<u8>);

    impl RngCore for Fixed {
        fn next_u32(&mut self) -> u32 {
            unreachable!("a key is drawn in one piece")
        }
        fn next_u64(&mut self) -> u64 {
            unreachable!("a key is drawn in one piece")
        }
        fn fill_bytes(&mut self, to: &mut [u8]) {
            to.copy_from_slice(&self.0.split_off(self.0.len() - to.len()));
        }
    }

    impl CryptoRng for Fixed {}

    /// RFC 9180 appendix A.2.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305, base mode, sequence number 0.
    #[test]
    fn shares_are_rfc_9180s() {
        let info = bytes("4f6465206f6e2061204772656369616e2055726e");
        let aad = bytes("436f756e742d30");
        let plaintext = bytes("4265617574792069732074727574682c20747275746820626561757479");
        let enc: [u8; 32] = array("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a");
        let receiver: [u8; 32] = array("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
        let private: [u8; 32] = array("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb");
        let ciphertext =
            bytes("1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28");
        let mut text = ciphertext.clone();
        let opened = open_in_place(&Secret::new(private), &info, &aad, &enc, &mut text).unwrap();
        assert_eq!(opened, plaintext);

        // The ephemeral key follows from the input keying material of the vector (RFC 9180 §7.1.3).
        let ikm = bytes("909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b");
        let mut text = plaintext.clone();
        text.extend([0; 16]);
        let made = seal_in_place(&mut Fixed(ikm), &receiver, &info, &aad, &mut text).unwrap();
        assert_eq!((made, text), (enc, ciphertext));
    }

    #[test]
    fn a_share_opens_for_its_member_and_purpose_only() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let private = Secret::new([5; 32]);
        let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from([5; 32])).to_bytes();
        let group: Group = "239.1.1.1".parse().unwrap();
        let binding = Binding { group, epoch: Epoch(2), member: NodeId([3; 8]), administrator: NodeId([4; 8]) };
        let gak = Secret::new([9; 32]);
        let (enc, ciphertext) = seal(&mut rng, &public, &binding, &gak).unwrap();
        assert_eq!(open(&private, &binding, &enc, &ciphertext).unwrap().expose(), gak.expose());
        assert!(open(&Secret::new([6; 32]), &binding, &enc, &ciphertext).is_none(), "another member");
        let others = [
            Binding { group: "239.1.1.2".parse().unwrap(), ..binding },
            Binding { epoch: Epoch(3), ..binding },
            Binding { member: NodeId([4; 8]), ..binding },
            Binding { administrator: NodeId([3; 8]), ..binding },
        ];
        for other in others {
            assert!(open(&private, &other, &enc, &ciphertext).is_none());
        }
        for at in 0..48 {
            let mut bad = ciphertext;
            bad[at] ^= 1;
            assert!(open(&private, &binding, &enc, &bad).is_none(), "byte {at}");
        }
        assert!(seal(&mut rng, &[0; 32], &binding, &gak).is_none(), "nobody holds that key");
    }
}
