//! The AEAD of a key, expanded once: ring's AES-256-GCM or ChaCha20-Poly1305.

use gemcast_proto::id::{Counter, Suite};
use gemcast_proto::wire::frame::{self, NONCE_LEN, TAG_LEN};
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// An expanded traffic key with its nonce salt.
pub struct Aead {
    key: LessSafeKey,
    salt: [u8; NONCE_LEN],
}

impl Aead {
    /// Expands a traffic key.
    pub fn new(suite: Suite, key: &[u8; 32], salt: [u8; NONCE_LEN]) -> Self {
        let algorithm = match suite {
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, key).expect("both algorithms take 32-byte keys");
        Self { key: LessSafeKey::new(key), salt }
    }

    fn nonce(&self, ctr: Counter) -> Nonce {
        Nonce::assume_unique_for_key(frame::nonce(&self.salt, ctr))
    }

    /// Encrypts `plaintext` in place and returns the tag. The caller never passes a counter twice.
    #[inline]
    pub fn seal(&self, ctr: Counter, aad: &[u8], plaintext: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self.key.seal_in_place_separate_tag(self.nonce(ctr), Aad::from(aad), plaintext);
        let tag = tag.expect("a frame is far shorter than the AEAD's limit");
        tag.as_ref().try_into().expect("both algorithms have 16-byte tags")
    }

    /// Decrypts `buffer[at..]`, ciphertext and tag, to the start of `buffer`. The plaintext's length, or `None` when it is
    /// not authentic; the buffer is then wiped of plaintext by ring.
    #[inline]
    pub fn open(&self, ctr: Counter, aad: &[u8], buffer: &mut [u8], at: usize) -> Option<usize> {
        self.key.open_within(self.nonce(ctr), Aad::from(aad), buffer, at..).ok().map(|plaintext| plaintext.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    /// Runs one published vector through our own nonce construction: the salt is chosen so that salt ⊕ counter is the
    /// vector's nonce.
    fn vector(suite: Suite, key: &str, nonce: &str, aad: &str, plaintext: &str, ciphertext: &str, tag: &str) {
        let ctr = Counter::new(2, 0x1234_5678_9abc);
        let mut salt: [u8; 12] = bytes(nonce).try_into().unwrap();
        for (byte, counter) in salt[4..].iter_mut().zip(ctr.0.to_be_bytes()) {
            *byte ^= counter;
        }
        let aead = Aead::new(suite, &bytes(key).try_into().unwrap(), salt);
        let mut buffer = bytes(plaintext);
        let sealed = aead.seal(ctr, &bytes(aad), &mut buffer);
        assert_eq!((buffer.as_slice(), sealed.as_slice()), (bytes(ciphertext).as_slice(), bytes(tag).as_slice()));
        let mut packet = [vec![0xee; 32], bytes(ciphertext), bytes(tag)].concat();
        let length = aead.open(ctr, &bytes(aad), &mut packet, 32).unwrap();
        assert_eq!(packet[..length], bytes(plaintext));
        let mut forged = [vec![0xee; 32], bytes(ciphertext), bytes(tag)].concat();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(aead.open(ctr, &bytes(aad), &mut forged, 32), None);
    }

    /// Test case 16 of McGrew and Viega, "The Galois/Counter Mode of Operation".
    #[test]
    fn aes_256_gcm_vector() {
        vector(
            Suite::Aes256Gcm,
            "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            "cafebabefacedbaddecaf888",
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            "76fc6ece0f4e1768cddf8853bb2d551b",
        );
    }

    /// RFC 8439 §2.8.2.
    #[test]
    fn chacha20_poly1305_vector() {
        vector(
            Suite::ChaCha20Poly1305,
            "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
            "070000004041424344454647",
            "50515253c0c1c2c3c4c5c6c7",
            "4c616469657320616e642047656e746c656d656e206f662074686520636c617373206f66202739393a204966204920636f756c64206f6666657220796f75206f6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73637265656e20776f756c642062652069742e",
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b6116",
            "1ae10b594f09e26a7e902ecbd0600691",
        );
    }
}
