//! Framed messages over a non-blocking Unix stream socket.

use gemcast_proto::message::{FrameError, FrameReader, encode};
use mio::net::UnixStream;
use prost::Message;
use std::io::{self, Read, Write};

/// Bytes read at a time.
const CHUNK_LEN: usize = 1 << 14;

/// One connection. It never blocks: what cannot be sent now waits, up to a limit, for [`MessageStream::flush`].
pub struct MessageStream {
    socket: UnixStream,
    reader: FrameReader,
    outbox: Vec<u8>,
    sent: usize,
    outbox_limit: usize,
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The other end closed it.
    #[error("closed by the other end")]
    Closed,
    /// The other end does not take what is sent to it.
    #[error("the other end does not read: {0} bytes wait for it")]
    Stuck(usize),
    /// The other end sent something else than messages.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl MessageStream {
    /// Wraps a socket. Messages longer than `message_limit` are refused; more than `outbox_limit` bytes are never queued.
    pub fn new(socket: UnixStream, message_limit: usize, outbox_limit: usize) -> Self {
        let reader = FrameReader::with_limit(message_limit);
        Self { socket, reader, outbox: Vec::new(), sent: 0, outbox_limit }
    }

    /// The socket, for registration with the event loop.
    pub fn socket(&mut self) -> &mut UnixStream {
        &mut self.socket
    }

    /// The next message; `None` when there is none yet. The event loop is edge-triggered: call until `None`.
    pub fn receive<M: Message + Default>(&mut self) -> Result<Option<M>, StreamError> {
        loop {
            if let Some(message) = self.reader.message()? {
                return Ok(Some(message));
            }
            let mut chunk = [0; CHUNK_LEN];
            match self.socket.read(&mut chunk) {
                Ok(0) => return Err(StreamError::Closed),
                Ok(length) => self.reader.push(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a message, as far as the socket takes it.
    pub fn send(&mut self, message: &impl Message) -> Result<(), StreamError> {
        self.outbox.drain(..self.sent);
        self.sent = 0;
        encode(message, &mut self.outbox);
        if self.outbox.len() > self.outbox_limit {
            return Err(StreamError::Stuck(self.outbox.len()));
        }
        self.flush()
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&mut self) -> Result<(), StreamError> {
        while let Some(rest) = self.outbox.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.socket.write(rest) {
                Ok(0) => return Err(StreamError::Closed),
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.outbox = Vec::new();
        self.sent = 0;
        Ok(())
    }

    /// Bytes that wait to be sent.
    pub fn queued(&self) -> usize {
        self.outbox.len() - self.sent
    }
}
