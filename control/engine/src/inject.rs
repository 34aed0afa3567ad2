//! Objects that an operator hands in: made offline by the administrator, or by a node that names its successor. And what
//! is kept of them for the next start.

use crate::Engine;
use crate::object::{Offer, node_id_of};
use crate::time::Now;
use crate::timer::Timer;
use gemcast_proto::id::{Epoch, Group, NodeId};
use gemcast_proto::wire::gem::kmg::PackagePayload;
use gemcast_proto::wire::gem::{self, NodePayload, Object, ObjectKind, ObjectName};
use std::collections::BTreeMap;

/// Why nothing was taken in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InjectError {
    /// Not an object.
    #[error("object {number}: {error}")]
    Malformed {
        /// Its place, from 1.
        number: usize,
        /// What is wrong with it.
        error: gem::Error,
    },
    /// An object of a kind that only its own node announces.
    #[error("object {number} is a {kind}; only what an administrator or a node's successor needs can be injected")]
    Kind {
        /// Its place, from 1.
        number: usize,
        /// Its kind.
        kind: ObjectKind,
    },
    /// Signed by an administrator that this gateway was not told of.
    #[error(
        "object {number} ({kind}) is signed by administrator {origin}, which this gateway was not told of; add its public \
         key to kmg in [domain] if it is yours"
    )]
    Untrusted {
        /// Its place, from 1.
        number: usize,
        /// Its kind.
        kind: ObjectKind,
        /// Who signed it.
        origin: NodeId,
    },
    /// A package that would take the place of one in force, which gateways that start could not hear of any more.
    #[error(
        "object {number}: epoch {epoch} of group {group} takes the place of epoch {in_force}, which is in force; a group has \
         room for four epochs: take the next number that is not four, eight, … from {in_force}, or issue this one once \
         another epoch has ended {in_force}"
    )]
    Displaces {
        /// Its place, from 1.
        number: usize,
        /// Its group.
        group: Group,
        /// Its epoch.
        epoch: Epoch,
        /// The epoch in force.
        in_force: Epoch,
    },
}

/// What became of injected objects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Injected {
    /// Taken in, and on their way to everyone.
    pub accepted: u32,
    /// Known already, or replaced by something newer.
    pub known: u32,
    /// Refused: place from 1, kind, and why.
    pub refused: Vec<(usize, ObjectKind, String)>,
}

impl Engine {
    /// Takes in objects that did not come from a neighbour. On an error none of them is.
    pub fn inject(&mut self, now: Now, bodies: &[Vec<u8>]) -> Result<Injected, InjectError> {
        for (at, body) in bodies.iter().enumerate() {
            let number = at + 1;
            let object = Object::parse(body).map_err(|error| InjectError::Malformed { number, error })?;
            let ObjectName { origin, kind, .. } = object.header.name;
            let of_administrator = match kind {
                ObjectKind::NODE => is_administrator(&object),
                ObjectKind::SUCCESSOR => false,
                kind if kind.is_administrative() => true,
                kind => return Err(InjectError::Kind { number, kind }),
            };
            if of_administrator && !self.objects.is_administrator(origin) {
                return Err(InjectError::Untrusted { number, kind, origin });
            }
            if kind == ObjectKind::GAK_PACKAGE
                && let Ok(PackagePayload { group, epoch, emergency: false, .. }) = PackagePayload::parse(object.payload)
                && self.objects.is_news(body)
                && let Some(in_force) = self.gaks.displaced_by(group, epoch, self.latest(now))
            {
                return Err(InjectError::Displaces { number, group, epoch, in_force });
            }
        }
        let mut injected = Injected::default();
        for (at, body) in bodies.iter().enumerate() {
            let header = Object::parse(body).expect("parsed above").header;
            match self.objects.offer(now.wall, body) {
                Ok(Offer::Accepted | Offer::Conflict { replaced: true }) => {
                    injected.accepted += 1;
                    self.timers.set_by(Timer::Expiry, now.mono);
                    self.flood_own(now.mono, header.name);
                    self.object_changed(now, None, &header);
                    self.forget_evicted(now);
                }
                Ok(Offer::Outdated) if self.says_otherwise(body) => {
                    let why =
                        "older than what is known, which says something else: is the administrator's clock behind?";
                    injected.refused.push((at + 1, header.name.kind, why.into()));
                }
                Ok(Offer::Repeated | Offer::Outdated | Offer::Conflict { replaced: false }) => injected.known += 1,
                Err(refusal) => injected.refused.push((at + 1, header.name.kind, refusal.to_string())),
            }
        }
        self.govern(now);
        Ok(injected)
    }

    /// Whether what is known under the name of an administrative object is no later word on the same matter, but another
    /// one that was meant to be replaced.
    fn says_otherwise(&self, body: &[u8]) -> bool {
        let object = Object::parse(body).expect("parsed before it was offered");
        let Some(known) = self.objects.get(&object.header.name) else { return false };
        match object.header.name.kind {
            // A higher epoch in its slot is the course of things.
            ObjectKind::GAK_PACKAGE => {
                let epoch = |payload| PackagePayload::parse(payload).map(|package| package.epoch).ok();
                epoch(known.payload()) <= epoch(object.payload) && known.payload() != object.payload
            }
            ObjectKind::REVOKE | ObjectKind::ROSTER => {
                known.header.tombstone != object.header.tombstone || known.payload() != object.payload
            }
            _ => false,
        }
    }

    /// Whether an object is signed in the name of an administrator that this gateway was told of.
    pub fn is_of_administrator(&self, body: &[u8]) -> bool {
        Object::parse(body).is_ok_and(|object| self.objects.is_administrator(object.header.name.origin))
    }

    /// Everything of the administrators, for [`Engine::inject`] at the next start: a gateway that starts alone knows its
    /// group keys, and whom not to trust. No secret of ours is in it.
    pub fn administration(&self) -> Vec<Vec<u8>> {
        const KINDS: [ObjectKind; 4] =
            [ObjectKind::REVOKE, ObjectKind::ROSTER, ObjectKind::GAK_PACKAGE, ObjectKind::GAK_SHARE];
        let of = |administrator: NodeId| {
            let node = ObjectName { origin: administrator, kind: ObjectKind::NODE, id: 0 };
            let said = KINDS.into_iter().flat_map(move |kind| self.objects.of(administrator, kind));
            self.objects.get(&node).into_iter().chain(said)
        };
        self.objects.administrators().flat_map(of).map(|stored| stored.body.to_vec()).collect()
    }

    /// The administrators this gateway was told of, and the names they gave themselves.
    pub fn administrators(&self) -> Vec<(NodeId, Option<String>)> {
        let names: BTreeMap<_, _> = self.objects.nodes().map(|(id, keys)| (*id, keys.name.clone())).collect();
        let ids = self.config.administrators.iter().map(node_id_of);
        ids.map(|id| (id, names.get(&id).cloned())).collect()
    }
}

fn is_administrator(object: &Object<'_>) -> bool {
    NodePayload::parse(object.payload).is_ok_and(|node| node.agreement_key == [0; 32])
}
