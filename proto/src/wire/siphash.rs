//! SipHash-2-4 (Aumasson and Bernstein, 2012) over inputs whose length is known at compile time, for the group tag.
//!
//! The input comes in words, so that it never has to be put into memory and read back; the loops have constant trip
//! counts, so that the same code passes the eBPF verifier.

/// SipHash-2-4 under the key halves `k0`, `k1` (little-endian) of an input of `length` bytes: its whole words, and the bytes
/// left over, all as little-endian numbers.
#[inline(always)]
pub fn siphash24<const WORDS: usize>(k0: u64, k1: u64, words: [u64; WORDS], rest: u64, length: usize) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut i = 0;
    while i < WORDS {
        compress(&mut v, words[i]);
        i += 1;
    }
    compress(&mut v, (length as u64) << 56 | rest);
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    round(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn compress(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of the reference implementation: key 00..0f, input 00, 01, 02 … of the given length.
    #[test]
    fn reference_vectors() {
        let k0 = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7]);
        let k1 = u64::from_le_bytes([8, 9, 10, 11, 12, 13, 14, 15]);
        let word = |at: u64| u64::from_le_bytes(core::array::from_fn(|i| at as u8 + i as u8));
        assert_eq!(siphash24(k0, k1, [], 0, 0).to_le_bytes(), [0x31, 0x0e, 0x0e, 0xdd, 0x47, 0xdb, 0x6f, 0x72]);
        assert_eq!(siphash24(k0, k1, [word(0)], 0, 8).to_le_bytes(), [0x62, 0x24, 0x93, 0x9a, 0x79, 0xf5, 0xf5, 0x93]);
        let rest = word(8) & 0x00ff_ffff_ffff_ffff;
        assert_eq!(
            siphash24(k0, k1, [word(0)], rest, 15).to_le_bytes(),
            [0xe5, 0x45, 0xbe, 0x49, 0x61, 0xca, 0x29, 0xa1]
        );
        let words = [0, 8, 16, 24, 32, 40, 48].map(word);
        let rest = word(56) & 0x00ff_ffff_ffff_ffff;
        assert_eq!(siphash24(k0, k1, words, rest, 63).to_le_bytes(), [0x72, 0x45, 0x06, 0xeb, 0x4c, 0x32, 0x8a, 0x95]);
    }
}
