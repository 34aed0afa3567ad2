//! Messages on the Unix sockets, between the daemons and from gemctl.

use gemcast_proto::message::{FrameReader, encode};
use gemcast_proto::{api, link};
use prost::Message;

use crate::assert_told;

/// Bytes that a reader accepts in one message here.
const LIMIT: usize = 4096;

/// The first byte says which messages they are meant to be, the second in what pieces they arrive, the rest is the stream.
pub fn check(data: &[u8]) {
    let [kind, piece, stream @ ..] = data else { return };
    let piece = usize::from(*piece).max(1);
    match kind % 4 {
        0 => check_stream::<api::Request>(stream, piece),
        1 => check_stream::<api::Response>(stream, piece),
        2 => check_stream::<link::ToDataplane>(stream, piece),
        _ => check_stream::<link::ToControl>(stream, piece),
    }
}

/// However a stream is cut into pieces, the same messages come out of it, up to the same error.
fn check_stream<M: Message + Default + PartialEq + std::fmt::Debug>(stream: &[u8], piece: usize) {
    let (messages, refused) = read::<M>(stream, stream.len().max(1));
    let in_pieces = read::<M>(stream, piece);
    assert_eq!((&messages, refused), (&in_pieces.0, in_pieces.1));
    for message in messages {
        let mut bytes = Vec::new();
        encode(&message, &mut bytes);
        // Too long is fine: a message may grow when it is written whole.
        if bytes.len() <= LIMIT {
            assert_eq!(read::<M>(&bytes, bytes.len()), (vec![message], false));
        }
    }
}

fn read<M: Message + Default>(stream: &[u8], piece: usize) -> (Vec<M>, bool) {
    let mut reader = FrameReader::with_limit(LIMIT);
    let mut messages = Vec::new();
    for piece in stream.chunks(piece) {
        reader.push(piece);
        loop {
            match reader.message::<M>() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    assert_told(&error);
                    return (messages, true);
                }
            }
        }
    }
    (messages, false)
}
