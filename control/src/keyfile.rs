//! Files that hold keys: bootstrap and group keys (BK, GAK) and the node's own identity.
//!
//! A BK or GAK file is 44 characters of base64 (32 random bytes) and a newline. An identity file is three lines:
//!
//! ```text
//! gemcast-identity 1
//! ed25519 <44 characters of base64: the seed, RFC 8032 §5.1.5>
//! x25519 <44 characters of base64: the private key, RFC 7748 §5>
//! ```
//!
//! Every file is mode 0600 or 0400 and is never overwritten. No error and no log line here holds a byte of a key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use gemcast_engine::derive;
use gemcast_engine::secret::Secret;
use gemcast_proto::id::NodeId;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Characters of base64 that 32 bytes make, padding included.
const ENCODED_LEN: usize = 44;
/// No key file is longer; a longer one is not read.
const FILE_LEN_MAX: u64 = 1024;
/// First line of an identity file.
const IDENTITY_HEADER: &str = "gemcast-identity 1";
/// First line of an administrator's key file.
const ADMINISTRATOR_HEADER: &str = "gemcast-kmg 1";

/// Why a key file cannot be used, or not be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be opened or read.
    #[error("cannot read {path}: {error}{}", hint(.error))]
    Read {
        /// The file.
        path: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// A directory, device or the like.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The file.
        path: String,
    },
    /// Others than the owner may read or change the file.
    #[error("{path} has mode {mode:04o}, open to others than its owner; expected 0600 or 0400: `chmod 600 {path}`")]
    TooOpen {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The file belongs to a stranger, who could change it.
    #[error("{path} belongs to user {owner}; expected root or user {expected}: `chown {expected} {path}`")]
    Owner {
        /// The file.
        path: String,
        /// Its owner.
        owner: u32,
        /// The user this process runs as.
        expected: u32,
    },
    /// Not the length of a key file.
    #[error("{path} holds {found} characters; expected 44 characters of base64 (32 bytes) and a newline")]
    Length {
        /// The file.
        path: String,
        /// Characters found, white space at the end not counted.
        found: u64,
    },
    /// Not base64.
    #[error("{path} is not base64 of 32 bytes{at}", at = place(*.line))]
    Encoding {
        /// The file.
        path: String,
        /// Line of an identity file, 0 in a file of one line.
        line: usize,
    },
    /// 32 bytes that no random generator made.
    #[error("{path} holds no random key ({why}); make one with `gemctl key generate`")]
    Weak {
        /// The file.
        path: String,
        /// What gives it away.
        why: &'static str,
    },
    /// Not an identity file.
    #[error("{path}:{line}: expected {expected}; make an identity with `gemctl key generate node --out FILE`")]
    Identity {
        /// The file.
        path: String,
        /// Line, from 1.
        line: usize,
        /// What the line should have been.
        expected: &'static str,
    },
    /// Not an administrator's key file.
    #[error("{path}:{line}: expected {expected}; make the key with `gemctl kmg init`")]
    Administrator {
        /// The file.
        path: String,
        /// Line, from 1.
        line: usize,
        /// What the line should have been.
        expected: &'static str,
    },
    /// A credential that systemd did not hand over.
    #[error(
        "credential:{name} names no credential; expected one of LoadCredential= or SetCredential= in the unit, which systemd \
         puts into $CREDENTIALS_DIRECTORY"
    )]
    Credential {
        /// Its name.
        name: String,
    },
    /// The file to be made exists; keys are never overwritten.
    #[error("{path} exists; a key file is never overwritten: choose another name, or move it away first")]
    Exists {
        /// The file.
        path: String,
    },
    /// The file cannot be written; nothing of it is left.
    #[error("cannot write {path}: {error}")]
    Write {
        /// The file.
        path: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// The operating system has no randomness to give.
    #[error("the operating system gave no random numbers")]
    Random,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; make it with `gemctl key generate`, or correct the path",
        io::ErrorKind::PermissionDenied => "; it must belong to the user gemcast runs as",
        _ => "",
    }
}

fn place(line: usize) -> String {
    if line == 0 { String::new() } else { format!(" in line {line}") }
}

/// A node's private keys.
pub struct Identity {
    /// Ed25519 seed.
    pub signing_seed: Secret<32>,
    /// X25519 private key.
    pub agreement_key: Secret<32>,
}

impl Identity {
    /// The Ed25519 public key.
    pub fn public_key(&self) -> [u8; 32] {
        let pair = Ed25519KeyPair::from_seed_unchecked(self.signing_seed.expose()).expect("any 32 bytes are a seed");
        pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes")
    }

    /// The X25519 public key.
    pub fn agreement_public_key(&self) -> [u8; 32] {
        derive::agreement_public_key(&self.agreement_key)
    }

    /// The node id that follows from the public key.
    pub fn node_id(&self) -> NodeId {
        let hash = ring::digest::digest(&ring::digest::SHA256, &self.public_key());
        let mut id = [0; 8];
        id.copy_from_slice(&hash.as_ref()[..8]);
        NodeId(id)
    }
}

/// Reads a BK or GAK file.
pub fn read_key(path: &Path) -> Result<Secret<32>, KeyFileError> {
    let text = read_guarded(path)?;
    let text = text.trim_ascii_end();
    if text.len() != ENCODED_LEN {
        return Err(KeyFileError::Length { path: show(path), found: text.len() as u64 });
    }
    let key = decode(text, path, 0)?;
    refuse_weak(&key, path)?;
    Ok(key)
}

/// Reads an identity file.
pub fn read_identity(path: &Path) -> Result<Identity, KeyFileError> {
    let text = read_guarded(path)?;
    let mut lines = text.trim_ascii_end().split(|&byte| byte == b'\n');
    let wrong = |line, expected| KeyFileError::Identity { path: show(path), line, expected };
    if lines.next() != Some(IDENTITY_HEADER.as_bytes()) {
        return Err(wrong(1, "the line `gemcast-identity 1`"));
    }
    let mut key = |line, prefix: &[u8], expected| {
        let text = lines.next().and_then(|text| text.strip_prefix(prefix)).ok_or_else(|| wrong(line, expected))?;
        let key = decode(text, path, line)?;
        refuse_weak(&key, path)?;
        Ok(key)
    };
    let signing_seed = key(2, b"ed25519 ", "`ed25519 ` and 44 characters of base64")?;
    let agreement_key = key(3, b"x25519 ", "`x25519 ` and 44 characters of base64")?;
    match lines.next() {
        None => Ok(Identity { signing_seed, agreement_key }),
        Some(_) => Err(wrong(4, "the end of the file")),
    }
}

/// Makes a BK or GAK file with a random key.
pub fn generate_key(path: &Path) -> Result<Secret<32>, KeyFileError> {
    let key = random()?;
    let mut text = Zeroizing::new(encode(&key).to_vec());
    text.push(b'\n');
    write_new(path, &text)?;
    Ok(key)
}

/// Makes an identity file with random keys.
pub fn generate_identity(path: &Path) -> Result<Identity, KeyFileError> {
    let identity = Identity { signing_seed: random()?, agreement_key: random()? };
    // Room for the whole text, so that the buffer never moves and leaves a copy behind.
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_LEN_MAX as usize));
    text.extend_from_slice(IDENTITY_HEADER.as_bytes());
    for (name, key) in [("\ned25519 ", &identity.signing_seed), ("\nx25519 ", &identity.agreement_key)] {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(&*encode(key));
    }
    text.push(b'\n');
    write_new(path, &text)?;
    Ok(identity)
}

/// Where systemd put a credential.
pub fn credential(name: &str) -> Result<PathBuf, KeyFileError> {
    let absent = || KeyFileError::Credential { name: name.to_owned() };
    let dir = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|dir| !dir.is_empty()).ok_or_else(absent)?;
    if name.is_empty() || name.contains('/') {
        return Err(absent());
    }
    Ok(Path::new(&dir).join(name))
}

/// An administrator's key file, made by [`generate_administrator`]: its Ed25519 seed.
pub fn read_administrator(path: &Path) -> Result<Secret<32>, KeyFileError> {
    let text = read_guarded(path)?;
    let mut lines = text.trim_ascii_end().split(|&byte| byte == b'\n');
    let wrong = |line, expected| KeyFileError::Administrator { path: show(path), line, expected };
    if lines.next() != Some(ADMINISTRATOR_HEADER.as_bytes()) {
        return Err(wrong(1, "the line `gemcast-kmg 1`"));
    }
    let key = lines.next().and_then(|line| line.strip_prefix(b"ed25519 "));
    let seed = decode(key.ok_or_else(|| wrong(2, "`ed25519 ` and 44 characters of base64"))?, path, 2)?;
    refuse_weak(&seed, path)?;
    if lines.next().is_some() {
        return Err(wrong(3, "the end of the file"));
    }
    Ok(seed)
}

/// Makes an administrator's key file.
pub fn generate_administrator(path: &Path) -> Result<Secret<32>, KeyFileError> {
    let seed = random()?;
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_LEN_MAX as usize));
    text.extend_from_slice(ADMINISTRATOR_HEADER.as_bytes());
    text.extend_from_slice(b"\ned25519 ");
    text.extend_from_slice(&*encode(&seed));
    text.push(b'\n');
    write_new(path, &text)?;
    Ok(seed)
}

/// A public key as text.
pub fn public_key_text(key: &[u8; 32]) -> String {
    BASE64.encode(key)
}

/// Reads [`public_key_text`].
pub fn parse_public_key(text: &str) -> Option<[u8; 32]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

/// What people compare over the telephone to know that a public key is the right one: the first 16 bytes of its SHA-256
/// in groups of four hexadecimal digits.
pub fn public_fingerprint(key: &[u8; 32]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, key);
    let groups = hash.as_ref()[..16].chunks(2).map(|pair| format!("{:02x}{:02x}", pair[0], pair[1]));
    groups.collect::<Vec<_>>().join(" ")
}

/// Random secret bytes from the operating system.
pub fn random() -> Result<Secret<32>, KeyFileError> {
    let mut filled = Ok(());
    let secret = Secret::filled(|bytes| filled = SystemRandom::new().fill(bytes));
    filled.map(|()| secret).map_err(|_| KeyFileError::Random)
}

/// Whether a file holds an identity rather than a single key, told from its first line.
pub fn is_identity(path: &Path) -> Result<bool, KeyFileError> {
    Ok(read_guarded(path)?.starts_with(b"gemcast-identity"))
}

/// Public name of a secret key, to compare two files by: 16 hexadecimal digits that tell nothing about the key.
pub fn fingerprint(key: &Secret<32>) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.expose());
    let tag = ring::hmac::sign(&key, b"gemcast1 fingerprint");
    tag.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a file after checking what it is and who may touch it.
fn read_guarded(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let read = |error| KeyFileError::Read { path: show(path), error };
    // O_NONBLOCK: opening a FIFO must not hang the start.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile { path: show(path) });
    }
    let mode = metadata.mode() & 0o7777;
    // systemd lets the service's user read a credential by an access control list, which shows as the group's right.
    let is_credential =
        std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|dir| path.parent() == Some(Path::new(&dir)));
    if mode & if is_credential { 0o037 } else { 0o077 } != 0 {
        return Err(KeyFileError::TooOpen { path: show(path), mode });
    }
    let expected = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != expected {
        return Err(KeyFileError::Owner { path: show(path), owner: metadata.uid(), expected });
    }
    if metadata.len() > FILE_LEN_MAX {
        return Err(KeyFileError::Length { path: show(path), found: metadata.len() });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_LEN_MAX as usize + 1));
    file.take(FILE_LEN_MAX).read_to_end(&mut text).map_err(read)?;
    Ok(text)
}

/// Writes a new file and makes sure that it stays, or leaves nothing.
fn write_new(path: &Path, text: &[u8]) -> Result<(), KeyFileError> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(KeyFileError::Exists { path: show(path) });
        }
        Err(error) => return Err(KeyFileError::Write { path: show(path), error }),
    };
    let written = file.write_all(text).and_then(|()| file.sync_all()).and_then(|()| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()
    });
    written.map_err(|error| {
        // The error that matters is the one above.
        let _ = fs::remove_file(path);
        KeyFileError::Write { path: show(path), error }
    })
}

fn decode(text: &[u8], path: &Path, line: usize) -> Result<Secret<32>, KeyFileError> {
    let wrong = || KeyFileError::Encoding { path: show(path), line };
    // The decoder wants room for whole groups of four characters: 33 bytes for 44.
    let mut bytes = Zeroizing::new([0; 33]);
    match BASE64.decode_slice(text, &mut *bytes) {
        Ok(32) => {
            let mut key = Zeroizing::new([0; 32]);
            key.copy_from_slice(&bytes[..32]);
            Ok(Secret::new(*key))
        }
        _ => Err(wrong()),
    }
}

fn encode(key: &Secret<32>) -> Zeroizing<[u8; ENCODED_LEN]> {
    let mut text = Zeroizing::new([0; ENCODED_LEN]);
    let written = BASE64.encode_slice(key.expose(), &mut *text).expect("32 bytes make 44 characters");
    debug_assert_eq!(written, ENCODED_LEN);
    text
}

/// Refuses keys that a person made up (R4). A random key trips one of these less than once in 10¹² keys.
fn refuse_weak(key: &Secret<32>, path: &Path) -> Result<(), KeyFileError> {
    let bytes = key.expose();
    let mut seen = Zeroizing::new([false; 256]);
    let mut steps = Zeroizing::new([false; 256]);
    for pair in bytes.windows(2) {
        steps[usize::from(pair[1].wrapping_sub(pair[0]))] = true;
    }
    for &byte in bytes {
        seen[usize::from(byte)] = true;
    }
    let count = |table: &[bool; 256]| table.iter().filter(|&&set| set).count();
    let why = if bytes.iter().all(|&byte| byte == 0) {
        "all zeros"
    } else if count(&seen) < 12 {
        "few different bytes"
    } else if count(&steps) < 6 {
        "a regular sequence"
    } else if bytes.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        "readable text"
    } else {
        return Ok(());
    };
    Err(KeyFileError::Weak { path: show(path), why })
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn file(dir: &tempfile::TempDir, name: &str, text: &[u8], mode: u32) -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn refusal<T>(result: Result<T, KeyFileError>) -> String {
        result.err().expect("a refusal").to_string()
    }

    #[test]
    fn generated_keys_are_read_back_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bk.key");
        let made = generate_key(&path).unwrap();
        assert_eq!(read_key(&path).unwrap().expose(), made.expose());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read(&path).unwrap().len(), ENCODED_LEN + 1);
    }

    #[test]
    fn generated_identities_are_read_back_and_keep_their_node_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let made = generate_identity(&path).unwrap();
        let read = read_identity(&path).unwrap();
        assert_eq!(read.node_id(), made.node_id());
        assert_eq!(read.agreement_key.expose(), made.agreement_key.expose());
        assert!(is_identity(&path).unwrap());
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(&dir, "node.key", b"precious", 0o600);
        assert!(refusal(generate_identity(&path)).contains("exists; a key file is never overwritten"));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn nothing_is_left_where_a_key_cannot_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent/bk.key");
        assert!(refusal(generate_key(&path)).starts_with("cannot write "));
        assert!(!path.exists());
    }

    #[test]
    fn files_open_to_others_are_refused_with_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let key = encode(&random().unwrap());
        for mode in [0o640, 0o604, 0o644, 0o660, 0o620, 0o610] {
            let path = file(&dir, "bk.key", &*key, mode);
            let refusal = refusal(read_key(&path));
            assert!(refusal.contains(&format!("mode {mode:04o}")) && refusal.contains("chmod 600"), "{refusal}");
        }
        for mode in [0o600, 0o400] {
            assert!(read_key(&file(&dir, "bk.key", &*key, mode)).is_ok(), "{mode:o}");
            fs::remove_file(dir.path().join("bk.key")).unwrap();
        }
    }

    #[test]
    fn what_is_no_key_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let encoded = |bytes: [u8; 32]| encode(&Secret::new(bytes)).to_vec();
        let sequence: [u8; 32] = std::array::from_fn(|i| i as u8);
        let text: [u8; 32] = *b"correct horse battery staple 123";
        let pattern: [u8; 32] = std::array::from_fn(|i| [0xde, 0xad, 0xbe, 0xef][i % 4]);
        let cases: [(&[u8], &str); 9] = [
            (b"", "holds 0 characters; expected 44"),
            (b"c2hvcnQ=\n", "holds 8 characters; expected 44"),
            (&[b'A'; 45], "holds 45 characters; expected 44"),
            (&[b'!'; 44], "is not base64"),
            (&[b'A'; 44], "is not base64 of 32 bytes"),
            (&encoded([0; 32]), "all zeros"),
            (&encoded(pattern), "few different bytes"),
            (&encoded(sequence), "a regular sequence"),
            (&encoded(text), "readable text"),
        ];
        for (content, expected) in cases {
            let path = file(&dir, "bk.key", content, 0o600);
            let refusal = refusal(read_key(&path));
            assert!(refusal.contains(expected) && refusal.contains("bk.key"), "{refusal} lacks {expected}");
        }
        assert!(refusal(read_key(&dir.path().join("none"))).contains("gemctl key generate"));
        assert!(refusal(read_key(dir.path())).contains("not a regular file"));
        let long = file(&dir, "long.key", &[b'A'; 5000], 0o600);
        assert!(refusal(read_key(&long)).contains("holds 5000 characters"));
    }

    #[test]
    fn what_is_no_identity_is_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        generate_identity(&path).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let cases = [
            (good.replace("identity 1", "identity 9"), "node.key:1: expected the line"),
            (good.replace("ed25519 ", "rsa "), "node.key:2: expected `ed25519 `"),
            (good.replace("x25519 ", "x448 "), "node.key:3: expected `x25519 `"),
            (good.replace("ed25519 ", "ed25519 !"), "not base64 of 32 bytes in line 2"),
            (format!("{good}more\n"), "node.key:4: expected the end"),
            (good.lines().take(2).collect::<Vec<_>>().join("\n"), "node.key:3: expected `x25519 `"),
        ];
        for (content, expected) in cases {
            let path = file(&dir, "node.key", content.as_bytes(), 0o600);
            let refusal = refusal(read_identity(&path));
            assert!(refusal.contains(expected), "{refusal} lacks {expected}");
        }
    }

    #[test]
    fn refusals_hold_no_byte_of_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let key = encode(&random().unwrap());
        let text = std::str::from_utf8(&*key).unwrap();
        for (content, mode) in [(format!("{text}x"), 0o600), (text.replace('=', "?"), 0o600), (text.to_owned(), 0o644)]
        {
            let path = file(&dir, "bk.key", content.as_bytes(), mode);
            assert!(!refusal(read_key(&path)).contains(&text[..8]));
        }
    }

    #[test]
    fn a_fingerprint_names_a_key_and_only_that_key() {
        let (a, b) = (random().unwrap(), random().unwrap());
        assert_eq!(fingerprint(&a), fingerprint(&a.duplicate()));
        assert_ne!(fingerprint(&a), fingerprint(&b));
        assert_eq!(fingerprint(&a).len(), 16);
    }
}
