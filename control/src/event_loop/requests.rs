//! What operators ask the daemon, and what it answers.

use super::{Daemon, STATS_WAIT, Waiting};
use crate::api::{self, Asked, ClientId};
use crate::clock;
use gemcast_engine::Engine;
use gemcast_engine::input::Input;
use gemcast_proto::api::{self as messages, error::Code, request, response};
use gemcast_proto::id::Group;
use std::time::Instant;

impl Daemon {
    /// Answers at once, or asks the data plane for fresh counters first.
    pub(super) fn on_request(&mut self, asked: Asked) {
        use request::Body::{Groups, Interfaces, Status};
        let now = Instant::now();
        if self.link.is_up() && matches!(asked.request, Status(_) | Groups(_) | Interfaces(_)) {
            self.waiting.push(Waiting { client: asked.client, request: asked.request, until: now + STATS_WAIT });
            let heard = self.link.ask_stats(self.poll.registry(), now);
            self.on_link(heard);
        } else {
            self.reply(asked.client, &asked.request);
        }
    }

    pub(super) fn reply(&mut self, client: ClientId, request: &request::Body) {
        if matches!(request, request::Body::Follow(_)) {
            self.api.follow(client, self.journal.recent(), self.poll.registry(), Instant::now());
            return;
        }
        let answer = self.answer(request);
        self.asked.extend(self.api.answer(client, answer, self.poll.registry(), Instant::now()));
    }

    fn answer(&mut self, request: &request::Body) -> response::Body {
        let report = self.report();
        match request {
            request::Body::Status(_) => response::Body::Status(report.status()),
            request::Body::Routes(_) => response::Body::Routes(messages::Routes { routes: report.routes() }),
            request::Body::Events(_) | request::Body::Follow(_) => response::Body::Events(self.journal.recent()),
            request::Body::RotateKey(rotate) => self.rotate(&rotate.group, rotate.emergency),
            request::Body::Inject(inject) => self.inject(&inject.objects),
            request::Body::AcceptClock(_) => self.accept_clock(),
            request::Body::Nodes(_) => response::Body::Nodes(messages::Nodes { nodes: report.nodes() }),
            request::Body::Groups(_) => response::Body::Groups(messages::Groups { groups: report.groups() }),
            request::Body::Keys(_) => response::Body::Keys(messages::Keys { keys: report.keys() }),
            request::Body::Interfaces(_) => {
                response::Body::Interfaces(messages::Interfaces { interfaces: report.interfaces() })
            }
            request::Body::Reputations(_) => self.reputations(),
            request::Body::BanPeer(ban) => self.ban_peer(ban),
            request::Body::UnbanPeer(unban) => self.unban_peer(&unban.peer),
            request::Body::Neighbours(_) => {
                let (neighbours, peers) = (report.neighbours(), report.peers());
                let objects = self.engine.objects();
                response::Body::Neighbours(messages::Neighbours { neighbours, peers, objects })
            }
        }
    }

    /// `gemctl kmg inject FILE`.
    fn inject(&mut self, objects: &[Vec<u8>]) -> response::Body {
        let injected = match self.engine.inject(clock::now(), objects) {
            Ok(injected) => injected,
            Err(error) => return api::error(Code::Failed, format!("nothing was taken in: {error}")),
        };
        self.settle();
        let refused = injected.refused.into_iter().map(|(number, kind, reason)| messages::RefusedObject {
            number: number as u32,
            kind: kind.to_string(),
            reason,
        });
        response::Body::Injected(messages::Injected {
            accepted: injected.accepted,
            known: injected.known,
            refused: refused.collect(),
        })
    }

    /// `gemctl clock accept`.
    fn accept_clock(&mut self) -> response::Body {
        let now = clock::now();
        self.engine.handle(now, Input::AcceptClock);
        self.state.wall_ms = now.wall.0;
        self.settle();
        self.save();
        self.check_clock();
        response::Body::Done(messages::Empty {})
    }

    /// `gemctl key rotate GROUP`.
    fn rotate(&mut self, text: &str, emergency: bool) -> response::Body {
        let group: Group = match text.parse() {
            Ok(group) => group,
            Err(why) => return api::error(Code::NotFound, format!("\"{text}\" is {why}")),
        };
        let view = |engine: &Engine| engine.groups().into_iter().find(|view| view.group == group);
        let Some(before) = view(&self.engine) else {
            return api::error(Code::NotFound, format!("no group {group}; `gemctl group list` shows them"));
        };
        if before.suite.is_none() || !before.send {
            let text = format!("group {group} has no key of this gateway: it is not sealed and sent here");
            return api::error(Code::NotFound, text);
        }
        if let Some(why) = self.engine.signing_refusal(clock::now()) {
            return api::error(Code::Unavailable, format!("no key can be announced: {why}"));
        }
        let rotate = if emergency { Input::ReplaceSek(group) } else { Input::RotateSek(group) };
        self.engine.handle(clock::now(), rotate);
        self.settle();
        let Some(after) = view(&self.engine) else {
            return api::error(Code::Failed, format!("group {group} vanished"));
        };
        let name = |key: Option<gemcast_proto::id::KeyId>| key.map(|key| key.to_string()).unwrap_or_default();
        let next = after.next_key.or(after.active_key.map(|key| (key, clock::now().wall)));
        response::Body::Rotated(messages::Rotated {
            group: group.to_string(),
            old_key: name(before.active_key),
            new_key: name(next.map(|(key, _)| key)),
            takes_over_at_ms: next.map_or(0, |(_, at)| at.0),
        })
    }
}
