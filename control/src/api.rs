//! The operator's socket: clients accepted, checked, and read one request at a time.
//!
//! The socket is for root and the user the daemon runs as. Clients, their requests and their unread answers are all
//! bounded; a client that breaks a bound is cut off and nobody else notices.

use crate::stream::{MessageStream, StreamError};
use gemcast_proto::api::{self, error::Code, request, response};
use mio::net::UnixListener;
use mio::{Interest, Registry, Token};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Clients at a time; further ones are turned away.
const CLIENTS_MAX: usize = 64;
/// No request is longer; one that injects has room for some thousand objects.
const REQUEST_LEN_MAX: usize = 1 << 20;
/// Unread answers of one client.
const OUTBOX_LEN_MAX: usize = 16 << 20;
/// Unread events of a client that follows them; one that reads more slowly is told so and cut off.
const EVENTS_LEN_MAX: usize = 1 << 18;
/// A client that asks nothing for this long is cut off.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// One connection of an operator's tool.
struct Client {
    stream: MessageStream,
    /// A request was handed out and its answer is still to come; the next one is not read before.
    awaiting: bool,
    /// It gets every event, and asks nothing more.
    following: bool,
    /// To be closed once its answer is sent.
    closing: bool,
    active_at: Instant,
}

/// Which client asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ClientId(usize);

/// A request to be answered with [`Api::answer`].
pub struct Asked {
    /// Who asked.
    pub client: ClientId,
    /// What.
    pub request: request::Body,
}

/// The listening socket and its clients.
pub struct Api {
    listener: UnixListener,
    path: PathBuf,
    first_token: usize,
    next: usize,
    clients: BTreeMap<ClientId, Client>,
}

impl Api {
    /// Listens at a path, in place of whatever is left there. The caller holds the instance's lock. The listener gets
    /// `first_token`, clients the tokens after it.
    pub fn listen(path: &Path, registry: &Registry, first_token: Token) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o660))?;
        registry.register(&mut listener, first_token, Interest::READABLE)?;
        Ok(Self { listener, path: path.into(), first_token: first_token.0, next: 0, clients: BTreeMap::new() })
    }

    /// Whether an event is for this.
    pub fn owns(&self, token: Token) -> bool {
        token.0 >= self.first_token
    }

    /// Takes what the socket of this token has: new clients, or requests.
    pub fn ready(&mut self, token: Token, registry: &Registry, now: Instant) -> Vec<Asked> {
        if token.0 == self.first_token {
            self.accept(registry, now);
            return Vec::new();
        }
        self.pump(ClientId(token.0), registry, now).into_iter().collect()
    }

    /// Sends an answer. The client's next request comes back if it is there already.
    pub fn answer(&mut self, id: ClientId, answer: response::Body, registry: &Registry, now: Instant) -> Option<Asked> {
        let client = self.clients.get_mut(&id)?;
        client.awaiting = false;
        client.active_at = now;
        if let Err(error) = client.stream.send(&api::Response { body: Some(answer) }) {
            self.close(id, registry, &error);
            return None;
        }
        self.pump(id, registry, now)
    }

    /// Answers with the events so far, and sends the client every further one.
    pub fn follow(&mut self, id: ClientId, so_far: api::Events, registry: &Registry, now: Instant) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.following = true;
        }
        self.answer(id, response::Body::Events(so_far), registry, now);
    }

    /// Sends an event to every client that follows.
    pub fn publish(&mut self, event: &api::Event, registry: &Registry, now: Instant) {
        let following: Vec<_> = self.clients.iter().filter(|(_, client)| client.following).map(|(id, _)| *id).collect();
        for id in following {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            let body = if client.stream.queued() > EVENTS_LEN_MAX {
                client.following = false;
                client.closing = true;
                client.active_at = now;
                let text = format!("events from number {} on are lost: they were read too slowly", event.number);
                error(Code::Unavailable, text)
            } else {
                response::Body::Events(api::Events { events: vec![event.clone()] })
            };
            if let Err(error) = client.stream.send(&api::Response { body: Some(body) }) {
                self.close(id, registry, &error);
            }
        }
    }

    /// Cuts off clients that ask nothing.
    pub fn expire(&mut self, registry: &Registry, now: Instant) {
        let waits = |client: &Client| client.awaiting || client.following;
        let idle = |client: &Client| !waits(client) && now.duration_since(client.active_at) > IDLE_MAX;
        let expired: Vec<_> = self.clients.iter().filter(|(_, client)| idle(client)).map(|(id, _)| *id).collect();
        for id in expired {
            self.close(id, registry, &StreamError::Closed);
        }
    }

    fn accept(&mut self, registry: &Registry, now: Instant) {
        loop {
            let mut socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // Out of descriptors, or the client is gone already; the listener itself goes on.
                    tracing::warn!(%error, "cannot accept an API client");
                    return;
                }
            };
            let refusal = if self.clients.len() >= CLIENTS_MAX {
                Some(error(Code::Unavailable, format!("{CLIENTS_MAX} API clients are connected already; try again")))
            } else {
                refuse(&socket)
            };
            self.next += 1;
            let id = ClientId(self.first_token + self.next);
            if registry.register(&mut socket, Token(id.0), Interest::READABLE | Interest::WRITABLE).is_err() {
                continue;
            }
            let stream = MessageStream::new(socket, REQUEST_LEN_MAX, OUTBOX_LEN_MAX);
            let mut client =
                Client { stream, awaiting: false, following: false, closing: refusal.is_some(), active_at: now };
            match refusal {
                // It fits a fresh socket's buffer, so it is sent and the client can be let go at once.
                Some(refusal) => {
                    let _ = client.stream.send(&api::Response { body: Some(refusal) });
                    let _ = registry.deregister(client.stream.socket());
                }
                None => {
                    self.clients.insert(id, client);
                }
            }
        }
    }

    fn pump(&mut self, id: ClientId, registry: &Registry, now: Instant) -> Option<Asked> {
        let client = self.clients.get_mut(&id)?;
        match Self::next_request(client) {
            Ok(Some(request)) => {
                client.awaiting = true;
                client.active_at = now;
                Some(Asked { client: id, request })
            }
            Ok(None) => {
                if client.closing && client.stream.queued() == 0 {
                    self.close(id, registry, &StreamError::Closed);
                }
                None
            }
            Err(error) => {
                self.close(id, registry, &error);
                None
            }
        }
    }

    fn next_request(client: &mut Client) -> Result<Option<request::Body>, StreamError> {
        client.stream.flush()?;
        if client.awaiting || client.closing {
            return Ok(None);
        }
        match client.stream.receive::<api::Request>()? {
            Some(_) if client.following => {
                client.closing = true;
                client.following = false;
                let text = "no request can follow `follow`; use another connection";
                client.stream.send(&api::Response { body: Some(error(Code::Failed, text)) })?;
                Ok(None)
            }
            Some(api::Request { body: Some(request) }) => Ok(Some(request)),
            Some(api::Request { body: None }) => {
                let text = "this version does not know the request; use gemctl and gemcastd of one version";
                client.closing = true;
                client.stream.send(&api::Response { body: Some(error(Code::Failed, text)) })?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn close(&mut self, id: ClientId, registry: &Registry, why: &StreamError) {
        if let Some(mut client) = self.clients.remove(&id) {
            tracing::debug!(client = id.0, %why, "API client closed");
            let _ = registry.deregister(client.stream.socket());
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // Nothing is left behind; whoever cannot remove it meets it again at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// Why a client may not ask, if so.
fn refuse(socket: &mio::net::UnixStream) -> Option<response::Body> {
    let ours = rustix::process::geteuid();
    match rustix::net::sockopt::socket_peercred(socket) {
        Ok(peer) if peer.uid.is_root() || peer.uid == ours => None,
        Ok(peer) => {
            let text = format!("user {} may not; run gemctl as root or user {}", peer.uid.as_raw(), ours.as_raw());
            Some(error(Code::NotPermitted, text))
        }
        Err(errno) => Some(error(Code::NotPermitted, format!("cannot tell who asks: {errno}"))),
    }
}

/// An answer that says no.
pub fn error(code: Code, message: impl Into<String>) -> response::Body {
    response::Body::Error(api::Error { code: code.into(), message: message.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemcast_proto::message::{FrameReader, encode};
    use mio::{Events, Poll};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_follower_that_does_not_read_is_told_and_cut_off_and_others_miss_nothing() {
        const EVENTS: u64 = 20_000;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let mut poll = Poll::new().unwrap();
        let mut api = Api::listen(&path, poll.registry(), Token(0)).unwrap();
        let now = Instant::now();
        let follow = || {
            let mut client = UnixStream::connect(&path).unwrap();
            let mut bytes = Vec::new();
            encode(&api::Request { body: Some(request::Body::Follow(api::Empty {})) }, &mut bytes);
            client.write_all(&bytes).unwrap();
            client
        };
        let (mut slow, mut quick) = (follow(), follow());
        let mut events = Events::with_capacity(8);
        while api.clients.values().filter(|client| client.following).count() < 2 {
            poll.poll(&mut events, None).unwrap();
            for event in &events {
                for asked in api.ready(event.token(), poll.registry(), now) {
                    api.follow(asked.client, api::Events::default(), poll.registry(), now);
                }
            }
        }
        let mut read = FrameReader::default();
        let mut last_read = 0;
        let take = |client: &mut UnixStream, reader: &mut FrameReader| {
            let mut chunk = [0; 4096];
            let length = client.read(&mut chunk).unwrap();
            reader.push(&chunk[..length]);
            let mut last = None;
            while let Some(answer) = reader.message::<api::Response>().unwrap() {
                last = answer.body;
            }
            (length, last)
        };
        for number in 1..=EVENTS {
            let event = api::Event { number, text: "something of some length".into(), ..Default::default() };
            api.publish(&event, poll.registry(), now);
            while last_read < number {
                if let (_, Some(response::Body::Events(heard))) = take(&mut quick, &mut read) {
                    last_read = heard.events.last().map_or(last_read, |event| event.number);
                }
            }
        }
        assert_eq!(api.clients.values().filter(|client| client.following).count(), 1, "the quick one");
        // What was queued comes, then the reason, then the end.
        let mut reader = FrameReader::default();
        let mut last = None;
        loop {
            poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            for event in &events {
                api.ready(event.token(), poll.registry(), now);
            }
            match take(&mut slow, &mut reader) {
                (0, _) => break,
                (_, heard) => last = heard.or(last),
            }
        }
        let Some(response::Body::Error(error)) = last else { panic!("told why") };
        assert!(error.message.contains("are lost: they were read too slowly"), "{}", error.message);
    }
}
