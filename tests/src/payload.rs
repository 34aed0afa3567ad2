//! What the lab's streams carry: RTP around seven MPEG-TS packets, 12 + 1316 bytes, every byte of them known.
//!
//! ```text
//!  0  RTP header: version 2, payload type 33 (MP2T, RFC 3551), sequence u16, timestamp u32 at 90 kHz, SSRC = stream
//! 12  7 × 188 bytes of MPEG-TS: 47 41 00 1c, then 184 bytes, which together are:
//!       0  stream u32
//!       4  sequence u64
//!      12  send time u64, nanoseconds of CLOCK_MONOTONIC
//!      20  FILLER, over and over
//! ```
//! The filler is what a capture looks for to prove that no cleartext is on the link.

/// Text that fills every payload.
pub const FILLER: &[u8] = b"cleartext of the gemcast lab - ";
/// Length of the RTP header.
pub const RTP_LEN: usize = 12;
/// Length of the whole UDP payload.
pub const PAYLOAD_LEN: usize = RTP_LEN + TS_PACKETS * TS_LEN;

const TS_PACKETS: usize = 7;
const TS_LEN: usize = 188;
const TS_HEADER: [u8; 3] = [0x47, 0x41, 0x00];
const TS_HEADER_LEN: usize = 4;
const PAYLOAD_TYPE_MP2T: u8 = 33;

/// The variable part of a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Payload {
    /// Which stream it belongs to.
    pub stream: u32,
    /// Number in the stream, from 0.
    pub sequence: u64,
    /// When it was sent, in nanoseconds of `CLOCK_MONOTONIC`.
    pub sent_ns: u64,
}

impl Payload {
    /// The payload's bytes.
    pub fn to_bytes(self) -> [u8; PAYLOAD_LEN] {
        let mut bytes = [0; PAYLOAD_LEN];
        bytes[0] = 2 << 6;
        bytes[1] = PAYLOAD_TYPE_MP2T;
        bytes[2..4].copy_from_slice(&(self.sequence as u16).to_be_bytes());
        let timestamp = (u128::from(self.sent_ns) * 90_000 / 1_000_000_000) as u32;
        bytes[4..8].copy_from_slice(&timestamp.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.stream.to_be_bytes());
        let head = [&self.stream.to_be_bytes()[..], &self.sequence.to_be_bytes(), &self.sent_ns.to_be_bytes()].concat();
        let mut content = head.iter().chain(FILLER.iter().cycle());
        for (counter, packet) in (0..).zip(bytes[RTP_LEN..].chunks_exact_mut(TS_LEN)) {
            packet[..3].copy_from_slice(&TS_HEADER);
            packet[3] = 0x10 | counter;
            for byte in &mut packet[TS_HEADER_LEN..] {
                *byte = *content.next().expect("the filler does not end");
            }
        }
        bytes
    }

    /// Reads a payload; nothing, when any byte of it is not what was sent.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let content = bytes.get(RTP_LEN + TS_HEADER_LEN..)?;
        let (stream, rest) = content.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let sent_ns = rest.first_chunk()?;
        let payload = Self {
            stream: u32::from_be_bytes(*stream),
            sequence: u64::from_be_bytes(*sequence),
            sent_ns: u64::from_be_bytes(*sent_ns),
        };
        (payload.to_bytes() == bytes).then_some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD: Payload = Payload { stream: 7, sequence: 0x1_0002, sent_ns: 1_000_000_000 };

    #[test]
    fn a_payload_is_rtp_and_mpeg_ts() {
        let bytes = PAYLOAD.to_bytes();
        assert_eq!(bytes.len(), 1328);
        assert_eq!(bytes[..RTP_LEN], [0x80, 33, 0, 2, 0, 1, 0x5f, 0x90, 0, 0, 0, 7]);
        assert!(bytes[RTP_LEN..].chunks(188).all(|packet| packet[0] == 0x47));
        assert!(bytes.windows(FILLER.len()).any(|window| window == FILLER));
    }

    #[test]
    fn any_altered_byte_is_noticed() {
        let bytes = PAYLOAD.to_bytes();
        assert_eq!(Payload::parse(&bytes), Some(PAYLOAD));
        for index in 0..bytes.len() {
            let mut altered = bytes;
            altered[index] ^= 1;
            assert_ne!(Payload::parse(&altered), Some(PAYLOAD), "byte {index}");
        }
        assert_eq!(Payload::parse(&bytes[..1327]), None);
    }
}
