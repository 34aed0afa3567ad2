//! Key derivations: HKDF-SHA256 (RFC 5869) without salt, an ASCII label and fixed-width fields as info, so that no two
//! derivations ever share an input.

use crate::secret::Secret;
use gemcast_proto::id::{Epoch, Group, KeyId, NodeId, Suite};
use ring::hkdf;
use zeroize::Zeroizing;

/// Length of the output, as ring wants it: a type.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn hkdf_sha256<const N: usize>(key_material: &[u8], info: &[&[u8]]) -> Secret<N> {
    Secret::filled(|out| {
        hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
            .extract(key_material)
            .expand(info, Length(N))
            .and_then(|okm| okm.fill(out))
            .expect("HKDF-SHA256 gives up to 255 × 32 bytes");
    })
}

/// Key of the Babel MAC (RFC 8967) that a bootstrap key stands for; stock routers are configured with it.
pub fn babel_mac_key(bootstrap_key: &Secret<32>) -> Secret<32> {
    hkdf_sha256(bootstrap_key.expose(), &[b"gemcast1 babel mac"])
}

/// Public key of an X25519 private key (RFC 7748 §6.1).
pub fn agreement_public_key(private_key: &Secret<32>) -> [u8; 32] {
    let private = x25519_dalek::StaticSecret::from(*private_key.expose());
    x25519_dalek::PublicKey::from(&private).to_bytes()
}

/// SipHash key of a group's gtag in one epoch.
pub fn gtag_key(gak: &Secret<32>, group: Group, epoch: Epoch) -> Secret<16> {
    hkdf_sha256(gak.expose(), &[b"gemcast1 gtag", &group.to_bytes(), &epoch.0.to_be_bytes()])
}

/// Key that one SEK, in one version of its object, is wrapped under.
pub fn wrap_key(gak: &Secret<32>, origin: NodeId, version: u64, key_id: KeyId, salt: &[u8; 16]) -> Secret<32> {
    let (version, key_id) = (version.to_be_bytes(), key_id.0.to_be_bytes());
    hkdf_sha256(gak.expose(), &[b"gemcast1 wrap", &origin.0, &version, &key_id, salt])
}

/// What a SEK is used as.
pub struct Traffic<'a> {
    /// The SEK.
    pub sek: &'a Secret<32>,
    /// GAK of its epoch.
    pub gak: &'a Secret<32>,
    /// Its AEAD.
    pub suite: Suite,
    /// Group it is for.
    pub group: Group,
    /// Node that made it.
    pub origin: NodeId,
    /// Its id.
    pub key_id: KeyId,
    /// GAK epoch it is bound to.
    pub epoch: Epoch,
}

impl Traffic<'_> {
    /// AEAD key and nonce salt of the data packets.
    pub fn derive(&self) -> (Secret<32>, Secret<12>) {
        let mut material = Zeroizing::new([0; 64]);
        material[..32].copy_from_slice(self.sek.expose());
        material[32..].copy_from_slice(self.gak.expose());
        let okm: Secret<44> = hkdf_sha256(
            &*material,
            &[
                b"gemcast1 data",
                &[self.suite as u8],
                &self.group.to_bytes(),
                &self.origin.0,
                &self.key_id.0.to_be_bytes(),
                &self.epoch.0.to_be_bytes(),
            ],
        );
        let (key, salt) = okm.expose().split_at(32);
        (Secret::filled(|to| to.copy_from_slice(key)), Secret::filled(|to| to.copy_from_slice(salt)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn hkdf_is_rfc_5869s() {
        // Appendix A.3: no salt, no info.
        let okm: Secret<42> = hkdf_sha256(&[0x0b; 22], &[]);
        assert_eq!(
            hex(okm.expose()),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
        );
    }

    /// Expected values computed with another implementation (Python's hmac), field by field from the design.
    #[test]
    fn derivations_have_their_published_values() {
        let (bk, gak, sek) = (Secret::new([0x11; 32]), Secret::new([0x22; 32]), Secret::new([0x33; 32]));
        let group: Group = "239.1.1.1".parse().unwrap();
        let (origin, key_id, epoch) = (NodeId([0x44; 8]), KeyId(0x5566_7788), Epoch(0x0102));
        assert_eq!(
            hex(babel_mac_key(&bk).expose()),
            "79368d075f45114d64f4cfe99e31abef171c1adca6a517adc7ca7f077e0e9e86"
        );
        assert_eq!(hex(gtag_key(&gak, group, epoch).expose()), "f74c7b4faa74347c2796957471bd29ad");
        let wrap = wrap_key(&gak, origin, 0x99, key_id, &[0xaa; 16]);
        assert_eq!(hex(wrap.expose()), "d56e5135a966331729eec531583f659c4b0c377a3e0a25fe55a6b87f8c191ef2");
        let suite = Suite::ChaCha20Poly1305;
        let (key, salt) = Traffic { sek: &sek, gak: &gak, suite, group, origin, key_id, epoch }.derive();
        assert_eq!(hex(key.expose()), "f9b1b7f618ef9e7a95835b4b8947cc3e32ad02997a7f6b7b36257b75cc783bc6");
        assert_eq!(hex(salt.expose()), "12b82b19423df512335a5770");
    }
}
