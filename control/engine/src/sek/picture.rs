//! Keys for the operator's eyes.

use super::OwnSek;
use crate::Engine;
use crate::time::UnixMillis;
use crate::view::{KeyState, KeyView};
use gemcast_proto::id::Suite;
use gemcast_proto::wire::gem::{ObjectKind, SekPayload};

impl Engine {
    /// Known SEKs, ours first.
    pub fn keys(&self) -> Vec<KeyView> {
        let own = self.seks.own.iter().flat_map(|(&group, own)| {
            let sek = move |sek: &OwnSek, state| KeyView {
                key_id: sek.key_id,
                origin: self.id,
                group,
                epoch: sek.epoch,
                suite: Some(sek.suite),
                state,
                not_before: sek.not_before,
                not_after: sek.not_after,
                packets: sek.packets,
            };
            let bare = move |key_id, epoch, not_after, state| KeyView {
                key_id,
                origin: self.id,
                group,
                epoch,
                suite: None,
                state,
                not_before: UnixMillis(0),
                not_after,
                packets: 0,
            };
            let active = own.active.iter().map(move |active| sek(active, KeyState::Active));
            let next = own.next.iter().map(move |next| sek(next, KeyState::Announced));
            let retiring = own
                .retiring
                .iter()
                .map(move |&(key_id, epoch, _)| bare(key_id, epoch, UnixMillis(0), KeyState::Retiring));
            let adopted =
                own.adopted.iter().map(move |key| bare(key.key_id, key.epoch, key.not_after, KeyState::Adopted));
            active.chain(next).chain(retiring).chain(adopted)
        });
        let others = self.objects.iter().filter(|stored| {
            stored.header.name.kind == ObjectKind::SEK
                && stored.header.name.origin != self.id
                && !stored.header.tombstone
        });
        let others = others.filter_map(|stored| {
            let payload = SekPayload::parse(stored.payload()).ok()?;
            let origin = stored.header.name.origin;
            let opening = self.seks.learnt.get(&payload.key_id).is_some_and(|learnt| learnt.origin == origin);
            Some(KeyView {
                key_id: payload.key_id,
                origin,
                group: payload.group,
                epoch: payload.epoch,
                suite: Suite::from_wire(payload.suite),
                state: if opening { KeyState::Opening } else { KeyState::Relayed },
                not_before: UnixMillis(payload.not_before_ms),
                not_after: stored.not_after(),
                packets: 0,
            })
        });
        own.chain(others).collect()
    }
}
