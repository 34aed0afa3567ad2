//! Files of signed objects: what `gemctl kmg` makes, what a gateway is given, and what it keeps for its next start.
//!
//! ```text
//! gemcast-objects 1
//! <base64 of one object>
//! …
//! sha256 <64 hexadecimal digits, over everything before this line>
//! ```
//! The hash finds damage; who made the objects is told by the signature of each.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use gemcast_proto::wire::gem::MAX_BODY_LEN;
use ring::digest::{SHA256, digest};
use std::fmt::Write;

const HEADER: &str = "gemcast-objects 1";
/// No file is longer: room for 100,000 objects.
pub const FILE_LEN_MAX: u64 = 40 << 20;

/// Why a text is no file of objects.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BundleError {
    /// Something else altogether.
    #[error("line 1: expected \"{HEADER}\", the first line of a file of objects")]
    Header,
    /// A line that is no object.
    #[error("line {0}: expected base64 of a signed object")]
    Line(usize),
    /// Cut off.
    #[error("the last line is missing: expected \"sha256\" and 64 hexadecimal digits; the file was cut off")]
    Cut,
    /// Altered.
    #[error("the contents do not match the hash in the last line; the file is damaged")]
    Damaged,
}

/// The file's text.
pub fn write<T: AsRef<[u8]>>(bodies: &[T]) -> String {
    let mut text = format!("{HEADER}\n");
    for body in bodies {
        text.push_str(&BASE64.encode(body));
        text.push('\n');
    }
    let hash = hash(&text);
    writeln!(text, "sha256 {hash}").expect("a String grows");
    text
}

/// The objects in a file, not yet verified.
pub fn read(text: &str) -> Result<Vec<Vec<u8>>, BundleError> {
    if text.lines().next() != Some(HEADER) {
        return Err(BundleError::Header);
    }
    let (before, last) = text.trim_end().rsplit_once('\n').ok_or(BundleError::Cut)?;
    let expected = last.strip_prefix("sha256 ").ok_or(BundleError::Cut)?;
    if hash(&text[..before.len() + 1]) != expected {
        return Err(BundleError::Damaged);
    }
    let body = |(at, line): (usize, &str)| {
        let body = BASE64.decode(line).ok().filter(|body| body.len() <= MAX_BODY_LEN);
        body.ok_or(BundleError::Line(at + 1))
    };
    before.lines().enumerate().skip(1).map(body).collect()
}

fn hash(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_back_and_damage_is_found() {
        let bodies = vec![vec![1, 2, 3], vec![], vec![9; 255]];
        let text = write(&bodies);
        assert_eq!(read(&text).unwrap(), bodies);
        assert_eq!(read(&write::<Vec<u8>>(&[])).unwrap(), Vec::<Vec<u8>>::new());
        for at in 0..text.len() - 1 {
            let mut bad = text.clone().into_bytes();
            bad[at] ^= 1;
            assert!(String::from_utf8(bad).map_or(true, |bad| read(&bad).is_err()), "byte {at}");
            assert!(read(&text[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(read("hello\n"), Err(BundleError::Header));
    }
}
