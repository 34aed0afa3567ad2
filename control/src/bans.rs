//! Keys whose packets the XDP program drops: why, and until when. What is here is what has to be in `BANS`.

use gemcast_engine::output::BanCause;
use gemcast_proto::id::KeyId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Why a key is banned. One key may be banned for several reasons, and stays so until the last one is gone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// Floods of packets with a right group tag and a payload that does not decrypt came under it.
    Garbage,
    /// The administrator revoked the node that made it.
    Revoked,
    /// The node that made it is banned.
    Node,
}

impl Cause {
    /// The name used in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Revoked => "revoked",
            Self::Node => "node_banned",
        }
    }
}

impl From<BanCause> for Cause {
    fn from(cause: BanCause) -> Self {
        match cause {
            BanCause::Revoked => Self::Revoked,
            BanCause::Node => Self::Node,
        }
    }
}

/// The bans in force.
#[derive(Default)]
pub struct Bans(BTreeMap<(KeyId, Cause), Option<Instant>>);

impl Bans {
    /// Bans a key, until then or for good. `true` when it was not banned for this cause before.
    pub fn add(&mut self, key_id: KeyId, cause: Cause, until: Option<Instant>) -> bool {
        self.0.insert((key_id, cause), until).is_none()
    }

    /// Takes a ban back. `true` when nothing bans the key any more.
    pub fn lift(&mut self, key_id: KeyId, cause: Cause) -> bool {
        self.0.remove(&(key_id, cause)).is_some() && !self.contains(key_id)
    }

    /// Whether a key is banned for any cause.
    pub fn contains(&self, key_id: KeyId) -> bool {
        self.0.keys().any(|(banned, _)| *banned == key_id)
    }

    /// Bans whose time is over.
    pub fn expired(&self, now: Instant) -> Vec<(KeyId, Cause)> {
        let over = self.0.iter().filter(|(_, until)| until.is_some_and(|until| until <= now));
        over.map(|(ban, _)| *ban).collect()
    }

    /// The keys banned for a cause, and until when.
    pub fn of(&self, cause: Cause) -> impl Iterator<Item = (KeyId, Option<Instant>)> {
        let of_cause = self.0.iter().filter(move |((_, other), _)| *other == cause);
        of_cause.map(|((key_id, _), until)| (*key_id, *until))
    }

    /// The banned keys.
    pub fn key_ids(&self) -> BTreeSet<KeyId> {
        self.0.keys().map(|(key_id, _)| *key_id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_ban_ends_at_its_time_and_not_before() {
        let (mut bans, now) = (Bans::default(), Instant::now());
        let later = now + Duration::from_secs(60);
        assert!(bans.add(KeyId(7), Cause::Garbage, Some(later)));
        assert!(!bans.add(KeyId(7), Cause::Garbage, Some(later)), "banned already");
        assert!(bans.add(KeyId(8), Cause::Garbage, None));
        assert_eq!(bans.expired(later - Duration::from_millis(1)), []);
        assert_eq!(bans.expired(later), [(KeyId(7), Cause::Garbage)]);
        assert!(bans.lift(KeyId(7), Cause::Garbage));
        assert!(!bans.lift(KeyId(7), Cause::Garbage), "lifted already");
        assert_eq!(bans.key_ids(), [KeyId(8)].into());
    }
}
