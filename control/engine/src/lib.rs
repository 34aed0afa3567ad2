//! The control plane's decisions, without any IO: Babel and its neighbours, GEM objects, the life of keys.
//!
//! The engine is a state machine in the sans-IO style. Its owner (gemcastd, or the simulator) calls
//! [`Engine::handle`] with what happened and the time it happened, drains [`Engine::poll_output`], sleeps until
//! [`Engine::next_deadline`], then calls [`Engine::handle_timeout`]. Time, randomness, configuration and secrets come in as
//! arguments; nothing here reads a clock, opens a socket or draws a random number of its own. The same inputs at the
//! same times give the same outputs.
#![forbid(unsafe_code)]

pub mod config;
pub mod input;
pub mod output;
pub mod secret;
pub mod time;
pub mod view;

use crate::config::Config;
use crate::input::Input;
use crate::output::Output;
use crate::time::{Instant, Now};
use gemcast_proto::id::NodeId;

/// The control plane of one gateway.
pub struct Engine {
    node_id: NodeId,
    /// What was counted since the start.
    pub counters: view::Counters,
}

impl Engine {
    /// A gateway with this configuration. `seed` feeds the generator behind every key, nonce and jitter.
    pub fn new(config: Config, seed: [u8; 32], now: Now) -> Self {
        let _ = (config, seed, now);
        Self { node_id: NodeId::default(), counters: view::Counters::default() }
    }

    /// Takes one event.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        let _ = (now, input);
    }

    /// The next effect to carry out, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// When [`Engine::handle_timeout`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Now) {
        let _ = now;
    }

    /// Our node id.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// Known gateways, ourselves first.
    pub fn nodes(&self) -> Vec<view::NodeView> {
        Vec::new()
    }

    /// Configured groups.
    pub fn groups(&self) -> Vec<view::GroupView> {
        Vec::new()
    }

    /// Known SEKs.
    pub fn keys(&self) -> Vec<view::KeyView> {
        Vec::new()
    }

    /// Babel neighbours.
    pub fn neighbours(&self) -> Vec<view::NeighbourView> {
        Vec::new()
    }
}
