//! A SEK on its way: encrypted under a key that only holders of the group key derive, for this one object.

use crate::secret::Secret;
use ring::aead;

/// Wraps a SEK: AES-256-GCM under a key that is used for nothing else, hence a fixed nonce.
pub(super) fn wrap(key: &Secret<32>, sek: &Secret<32>) -> [u8; 48] {
    let mut wrapped = [0; 48];
    wrapped[..32].copy_from_slice(sek.expose());
    let (text, tag) = wrapped.split_at_mut(32);
    let made = wrap_cipher(key)
        .seal_in_place_separate_tag(aead::Nonce::assume_unique_for_key([0; 12]), aead::Aad::empty(), text)
        .expect("32 bytes are within every limit of AES-GCM");
    tag.copy_from_slice(made.as_ref());
    wrapped
}

/// Undoes [`wrap`]; `None` when the key is another one: its maker does not hold our GAK.
pub(super) fn unwrap(key: &Secret<32>, wrapped: &[u8; 48]) -> Option<Secret<32>> {
    let mut text = zeroize::Zeroizing::new(*wrapped);
    let cipher = wrap_cipher(key);
    let sek = cipher.open_in_place(aead::Nonce::assume_unique_for_key([0; 12]), aead::Aad::empty(), &mut *text).ok()?;
    let sek: &[u8; 32] = (&*sek).try_into().ok()?;
    Some(Secret::filled(|to| *to = *sek))
}

fn wrap_cipher(key: &Secret<32>) -> aead::LessSafeKey {
    let key = aead::UnboundKey::new(&aead::AES_256_GCM, key.expose()).expect("AES-256 takes 32 bytes");
    aead::LessSafeKey::new(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_key_is_plain_aes_256_gcm() {
        // All zeros; the first half is test case 14 of the GCM specification, the whole was computed with Python's
        // cryptography.
        let expected = [
            0xce, 0xa7, 0x40, 0x3d, 0x4d, 0x60, 0x6b, 0x6e, 0x07, 0x4e, 0xc5, 0xd3, 0xba, 0xf3, 0x9d, 0x18, 0x72, 0x60,
            0x03, 0xca, 0x37, 0xa6, 0x2a, 0x74, 0xd1, 0xa2, 0xf5, 0x8e, 0x75, 0x06, 0x35, 0x8e, 0xd1, 0xd3, 0x08, 0x4c,
            0x99, 0xaa, 0x8a, 0x9f, 0xda, 0xbb, 0x3e, 0x83, 0xeb, 0x28, 0xc1, 0x5d,
        ];
        assert_eq!(wrap(&Secret::new([0; 32]), &Secret::new([0; 32])), expected);
    }

    #[test]
    fn only_the_right_key_unwraps() {
        let (key, other, sek) = (Secret::new([1; 32]), Secret::new([2; 32]), Secret::new([3; 32]));
        let wrapped = wrap(&key, &sek);
        assert_eq!(unwrap(&key, &wrapped).unwrap().expose(), sek.expose());
        assert!(unwrap(&other, &wrapped).is_none());
        for at in 0..wrapped.len() {
            let mut bad = wrapped;
            bad[at] ^= 1;
            assert!(unwrap(&key, &bad).is_none(), "byte {at}");
        }
    }
}
