//! Secret bytes: no `Debug`, no `Clone`, no comparison, wiped when dropped.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// `N` secret bytes. Copies are made only by [`Secret::duplicate`], so that each one shows in the code.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Takes the bytes; the caller wipes its own copy.
    pub fn new(bytes: [u8; N]) -> Self {
        Self(Box::new(bytes))
    }

    /// Bytes written where they stay, so that no copy is left elsewhere.
    pub fn filled(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Self::new([0; N]);
        fill(&mut secret.0);
        secret
    }

    /// The bytes, for a cryptographic call or a key map.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// A second copy, for a second owner.
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}
