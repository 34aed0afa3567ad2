//! The Unix socket that control connects to: one client at a time, a newer one replaces an older one.

use gemcast_proto::link::{ToControl, ToDataplane};
use gemcast_proto::message::{FrameReader, encode};
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Bytes that may wait for a client that does not read.
const MAX_UNSENT: usize = 64 << 20;

/// The listening socket and the client.
pub struct Link {
    listener: UnixListener,
    path: PathBuf,
    client: Option<Client>,
    client_token: Token,
}

struct Client {
    stream: UnixStream,
    reader: FrameReader,
    unsent: Vec<u8>,
}

impl Link {
    /// Listens at `path`. A socket file that nobody listens at is replaced.
    pub fn listen(path: &Path, registry: &Registry, listener_token: Token, client_token: Token) -> io::Result<Self> {
        if path.exists() && std::os::unix::net::UnixStream::connect(path).is_err() {
            fs::remove_file(path)?;
        }
        let mut listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        registry.register(&mut listener, listener_token, Interest::READABLE)?;
        Ok(Self { listener, path: path.to_owned(), client: None, client_token })
    }

    /// Takes a new client in place of the one there is. `true` when there was one.
    pub fn accept(&mut self, registry: &Registry) -> io::Result<bool> {
        let mut accepted = false;
        loop {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    self.disconnect(registry);
                    registry.register(&mut stream, self.client_token, Interest::READABLE | Interest::WRITABLE)?;
                    self.client = Some(Client { stream, reader: FrameReader::default(), unsent: Vec::new() });
                    accepted = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(accepted),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether control is connected.
    pub fn is_connected(&self) -> bool {
        self.client.is_some()
    }

    /// Takes what control sent. After an error, or at its end, control is disconnected.
    pub fn receive(&mut self, registry: &Registry) -> Vec<ToDataplane> {
        let mut messages = Vec::new();
        let Some(client) = &mut self.client else { return messages };
        let mut buffer = [0; 1 << 16];
        let failure = loop {
            match client.stream.read(&mut buffer) {
                Ok(0) => break Some("it closed the connection".to_owned()),
                Ok(length) => {
                    client.reader.push(&buffer[..length]);
                    match drain(&mut client.reader, &mut messages) {
                        Ok(()) => {}
                        Err(error) => break Some(error),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error.to_string()),
            }
        };
        if let Some(reason) = failure {
            tracing::warn!(%reason, "control is disconnected; forwarding goes on with the keys there are");
            self.disconnect(registry);
        }
        messages
    }

    /// Sends to control, if it is connected.
    pub fn send(&mut self, registry: &Registry, message: &ToControl) {
        let Some(client) = &mut self.client else { return };
        encode(message, &mut client.unsent);
        if client.unsent.len() > MAX_UNSENT {
            tracing::warn!("control does not read its socket; disconnected");
            self.disconnect(registry);
            return;
        }
        self.flush(registry);
    }

    /// Sends what could not be sent at once.
    pub fn flush(&mut self, registry: &Registry) {
        let Some(client) = &mut self.client else { return };
        while !client.unsent.is_empty() {
            match client.stream.write(&client.unsent) {
                Ok(length) => drop(client.unsent.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.disconnect(registry),
            }
        }
    }

    /// Hangs up on control, if it is connected.
    pub fn disconnect(&mut self, registry: &Registry) {
        if let Some(mut client) = self.client.take() {
            let _ = registry.deregister(&mut client.stream);
        }
    }
}

fn drain(reader: &mut FrameReader, messages: &mut Vec<ToDataplane>) -> Result<(), String> {
    while let Some(message) = reader.message().map_err(|error| error.to_string())? {
        messages.push(message);
    }
    Ok(())
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
