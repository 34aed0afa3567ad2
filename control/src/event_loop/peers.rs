//! What operators ask and say about whom to trust.

use super::Daemon;
use crate::api;
use crate::clock;
use gemcast_engine::view::Culprit;
use gemcast_proto::api::{BanPeer, error::Code, response};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

impl Daemon {
    /// `gemctl peer reputation`.
    pub(super) fn reputations(&self) -> response::Body {
        response::Body::Reputations(self.report().reputations())
    }

    /// `gemctl peer ban PEER`.
    pub(super) fn ban_peer(&mut self, ban: &BanPeer) -> response::Body {
        let lasts = ban.seconds.map(Duration::from_secs);
        let banned = self.named(&ban.peer).and_then(|who| {
            let banned = match who {
                Culprit::Node(node) if ban.vote => self.engine.vote(clock::now(), node, lasts),
                Culprit::Neighbour(..) if ban.vote => {
                    return Err(format!(
                        "{} is a neighbour; votes are about nodes: name one by its name or id",
                        ban.peer
                    ));
                }
                who => self.engine.ban(clock::now(), who, lasts),
            };
            banned.map_err(|error| format!("{}: {error}", ban.peer))
        });
        self.settled(banned)
    }

    /// `gemctl peer unban PEER`.
    pub(super) fn unban_peer(&mut self, peer: &str) -> response::Body {
        let ended = self
            .named(peer)
            .and_then(|who| self.engine.unban(clock::now(), who).map_err(|error| format!("{peer}: {error}")));
        self.settled(ended)
    }

    fn settled(&mut self, done: Result<(), String>) -> response::Body {
        self.settle();
        match done {
            Ok(()) => self.reputations(),
            Err(why) => api::error(Code::NotFound, why),
        }
    }

    /// Who is meant by an address, a node's name, or its id.
    fn named(&self, peer: &str) -> Result<Culprit, String> {
        let known = self.engine.reputations(clock::now());
        let (address, interface) = peer.split_once('%').map_or((peer, None), |(address, name)| (address, Some(name)));
        if let Ok(address) = address.parse::<IpAddr>() {
            let mapped = match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            return self.neighbour_at(peer, mapped, interface, known.into_iter().map(|view| (view.who, view.name)));
        }
        let own = [self.engine.node_id().to_string(), self.config.node.name.clone()];
        let named = known.iter().filter(|view| match view.who {
            Culprit::Node(node) => view.name == peer || node.to_string() == peer.to_ascii_lowercase(),
            Culprit::Neighbour(..) => false,
        });
        let nodes: Vec<_> = named.map(|view| view.who).collect();
        match *nodes {
            [one] => Ok(one),
            [] if own.contains(&peer.to_owned()) => Ok(Culprit::Node(self.engine.node_id())),
            [] => Err(format!(
                "no node or neighbour \"{peer}\" is known; expected a name or id as `gemctl node list` shows it, or an \
                 address as `gemctl neighbour list` does"
            )),
            _ => Err(format!("{} nodes are named \"{peer}\"; name one by its id: gemctl node list", nodes.len())),
        }
    }

    fn neighbour_at(
        &self,
        peer: &str,
        wanted: Ipv6Addr,
        interface: Option<&str>,
        known: impl Iterator<Item = (Culprit, String)>,
    ) -> Result<Culprit, String> {
        let ours = self.interfaces.iter().filter_map(|one| one.link.as_ref());
        if ours.flat_map(|link| &link.link_local).any(|own| *own == wanted) {
            return Err(format!("{peer} is an address of this gateway itself; name another node or neighbour"));
        }
        let is_it = |(who, name): &(Culprit, String)| {
            matches!(who, Culprit::Neighbour(_, address) if *address == wanted)
                && interface.is_none_or(|interface| interface == name)
        };
        let found: Vec<_> = known.filter(is_it).collect();
        match found.as_slice() {
            [(who, _)] => Ok(*who),
            [] => Err(format!("no neighbour {peer} is known; `gemctl neighbour list` shows them")),
            several => {
                let names: Vec<_> = several.iter().map(|(_, name)| format!("{wanted}%{name}")).collect();
                Err(format!("{wanted} is the address of several neighbours; name one: {}", names.join(", ")))
            }
        }
    }
}
