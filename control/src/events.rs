//! What the engine wants an operator to know, as log lines.

use crate::interfaces::Interfaces;
use crate::log::Throttle;
use gemcast_engine::output::Event;
use std::time::Instant;

/// Writes one event to the log. Refusals, which a stranger can cause at will, are held back beyond a few.
pub fn log(event: &Event, interfaces: &Interfaces, refusals: &mut Throttle) {
    match event {
        Event::NeighbourUp { ifindex, address } => {
            tracing::info!(interface = interfaces.name(*ifindex), %address, "neighbour up");
        }
        Event::NeighbourDown { ifindex, address } => {
            tracing::warn!(interface = interfaces.name(*ifindex), %address, "neighbour down");
        }
        Event::SekMade { group, key_id } => tracing::info!(%group, key = %key_id, "key made"),
        Event::SekLearnt { origin, group, key_id } => {
            tracing::info!(%origin, %group, key = %key_id, "key learnt");
        }
        Event::Conflict { origin, kind, id } => {
            tracing::error!(%origin, ?kind, id, "two objects of one name and version: the node's key is used twice");
        }
        Event::KeyIdTaken { origin, key_id } => {
            tracing::error!(%origin, key = %key_id, "a key announced under the id of another one; the first one stays");
        }
        Event::OwnObjectRefused { kind, id, what } => {
            tracing::error!(?kind, id, "an announcement of ours was not made: {what}");
        }
        Event::ObjectsMissing { node } => {
            tracing::warn!(%node, "routes of a gateway arrive and its objects do not: a router between passes no GEM");
        }
        Event::Refused { ifindex, source, what } => {
            if let Some(held_back) = refusals.permit(Instant::now()) {
                tracing::warn!(interface = interfaces.name(*ifindex), %source, held_back, "refused: {what}");
            }
        }
    }
}
