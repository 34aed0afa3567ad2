//! Framing of protobuf messages on a Unix stream socket: length u32 big-endian, then the message.

use prost::Message;
use std::vec::Vec;

/// Largest message either side accepts: a snapshot of 100,000 flows fits well.
pub const MAX_MESSAGE_LEN: usize = 32 << 20;
const LENGTH_LEN: usize = 4;

/// What a peer sent is no message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The announced length is past the limit.
    #[error("message of {length} bytes announced, expected at most {limit}")]
    TooLong {
        /// Length announced.
        length: usize,
        /// Length accepted.
        limit: usize,
    },
    /// The bytes are no message of the expected type.
    #[error("malformed message: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// Appends a framed message to `out`.
pub fn encode(message: &impl Message, out: &mut Vec<u8>) {
    let length = message.encoded_len();
    debug_assert!(length <= MAX_MESSAGE_LEN, "our own messages fit");
    out.reserve(LENGTH_LEN + length);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    message.encode(out).expect("a Vec grows as needed");
}

/// Collects bytes from a stream and takes messages out of them.
pub struct FrameReader {
    buffer: Vec<u8>,
    consumed: usize,
    limit: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::with_limit(MAX_MESSAGE_LEN)
    }
}

impl FrameReader {
    /// A reader that accepts messages of at most `limit` bytes.
    pub fn with_limit(limit: usize) -> Self {
        Self { buffer: Vec::new(), consumed: 0, limit }
    }

    /// Adds bytes as they came from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, `None` until more bytes come. After an error the stream is unusable.
    pub fn message<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        let rest = &self.buffer[self.consumed..];
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > self.limit {
            return Err(FrameError::TooLong { length, limit: self.limit });
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = M::decode(body)?;
        self.consumed += LENGTH_LEN + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Hello, MissingKey};

    #[test]
    fn messages_come_out_whole_however_the_bytes_arrive() {
        let mut bytes = Vec::new();
        for key_id in 0..20 {
            encode(&MissingKey { key_id, group: std::vec![1; key_id as usize], ..Default::default() }, &mut bytes);
        }
        let mut reader = FrameReader::default();
        let mut seen = 0;
        for chunk in bytes.chunks(7) {
            reader.push(chunk);
            while let Some(message) = reader.message::<MissingKey>().unwrap() {
                assert_eq!((message.key_id, message.group.len()), (seen, seen as usize));
                seen += 1;
            }
        }
        assert_eq!(seen, 20);
    }

    #[test]
    fn nonsense_is_refused() {
        let mut reader = FrameReader::default();
        reader.push(&[0xff; 8]);
        assert!(matches!(reader.message::<Hello>(), Err(FrameError::TooLong { .. })));
        let mut reader = FrameReader::default();
        reader.push(&[0, 0, 0, 1, 0xff]);
        assert!(matches!(reader.message::<Hello>(), Err(FrameError::Malformed(_))));
    }
}
