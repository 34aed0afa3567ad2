//! Frames as the XDP program and the workers see them: what they are, and the header of a sealed packet.

use gemcast_proto::id::{is_link_local, map_v4};
use gemcast_proto::reason::Reason;
use gemcast_proto::wire::classify::{
    Class, Datagram, ETHERNET_LEN, Family, IPV4_LEN, UDP_LEN, classify, ipv4_checksum,
};
use gemcast_proto::wire::frame::{AAD_V4_LEN, AAD_V6_LEN, HEADER_LEN, Header, VERSION};

/// Classifies the bytes as they are, and again with lengths and checksum put right, which no mutation hits by chance.
pub fn check(data: &[u8]) {
    check_frame(data);
    let mut frame = data.to_vec();
    mend(&mut frame);
    check_frame(&frame);
}

fn mend(frame: &mut [u8]) {
    let len = frame.len();
    match frame {
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, rest @ ..] if rest.len() >= IPV4_LEN + UDP_LEN => {
            let ip_len = u16::try_from(len - ETHERNET_LEN).unwrap_or(u16::MAX);
            rest[2..4].copy_from_slice(&ip_len.to_be_bytes());
            rest[24..26].copy_from_slice(&(ip_len - IPV4_LEN as u16).to_be_bytes());
            rest[10..12].fill(0);
            let sum = ipv4_checksum(rest[..IPV4_LEN].try_into().expect("20 bytes"));
            rest[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, rest @ ..] if rest.len() >= 40 + UDP_LEN => {
            let payload = u16::try_from(rest.len() - 40).unwrap_or(u16::MAX).to_be_bytes();
            rest[4..6].copy_from_slice(&payload);
            rest[44..46].copy_from_slice(&payload);
        }
        _ => {}
    }
}

fn check_frame(frame: &[u8]) {
    match classify(frame) {
        Class::Datagram(datagram) => check_datagram(frame, &datagram),
        Class::Pass(reason) => {
            use Reason::{LinkLocal, NotIp, NotMulticast, NotUdp, Vlan};
            assert!([LinkLocal, NotIp, NotMulticast, NotUdp, Vlan].contains(&reason), "passed for {reason:?}");
        }
        Class::Defective { group, reason } => {
            use Reason::{BadIpHeader, BadLength, Fragment, IpOptions, Truncated};
            let known = [BadIpHeader, BadLength, Fragment, IpOptions, Truncated].contains(&reason);
            assert!(known, "defective for {reason:?}");
            assert!(is_group(&group) && !is_link_local(&group), "only what goes to a group can be defective");
        }
    }
}

fn is_group(mapped: &[u8; 16]) -> bool {
    mapped[0] == 0xff || (mapped[..12] == map_v4([0; 4])[..12] && mapped[12] & 0xf0 == 0xe0)
}

fn check_datagram(frame: &[u8], datagram: &Datagram) {
    let start = datagram.family.payload_offset();
    let payload = &frame[start..start + datagram.payload_len];
    assert!(is_group(&datagram.group) && !is_link_local(&datagram.group));
    let udp = &frame[start - UDP_LEN..start];
    assert_eq!(udp[..2], datagram.source_port.to_be_bytes());
    assert_eq!(udp[2..4], datagram.destination_port.to_be_bytes());
    assert_eq!(udp[4..6], ((payload.len() + UDP_LEN) as u16).to_be_bytes());
    let Some(bytes) = payload.first_chunk::<HEADER_LEN>() else { return };
    match Header::parse(bytes) {
        Ok(header) => {
            assert_eq!(header.emit(), *bytes);
            assert!(header.source_port() >= 49152);
            check_tag(&header, datagram, (payload.len() - HEADER_LEN) as u16);
        }
        Err(Reason::Version) => assert_ne!(bytes[0] >> 4, VERSION),
        Err(Reason::Kind) => assert_ne!(bytes[0] & 0x0f, 0),
        Err(Reason::Flags) => assert_ne!(bytes[1], 0),
        Err(other) => panic!("a header refused for {other:?}"),
    }
}

/// The tag covers what the AAD covers, and the ciphertext's length.
fn check_tag(header: &Header, datagram: &Datagram, len: u16) {
    let (source, group) = (&datagram.source, &datagram.group);
    let tag = |header: &Header, source: &[u8; 16], group: &[u8; 16], len| match datagram.family {
        Family::V4 => header.gtag_v4(1, 2, source, group, len),
        Family::V6 => header.gtag_v6(1, 2, source, group, len),
    };
    let good = tag(header, source, group, len);
    let mut other = *source;
    other[15] ^= 1;
    assert_ne!(good, tag(header, &other, group, len));
    assert_ne!(good, tag(header, source, group, len ^ 1));
    let next = Header { ctr: gemcast_proto::id::Counter(header.ctr.0 ^ 1), ..*header };
    assert_ne!(good, tag(&next, source, group, len));
    let aad = match datagram.family {
        Family::V4 => header.aad_v4(source, group).to_vec(),
        Family::V6 => header.aad_v6(source, group).to_vec(),
    };
    let addresses =
        if datagram.family == Family::V4 { [&source[12..], &group[12..]] } else { [&source[..], &group[..]] };
    assert_eq!(aad[15..], addresses.concat());
    assert_eq!(aad.len(), if datagram.family == Family::V4 { AAD_V4_LEN } else { AAD_V6_LEN });
}
