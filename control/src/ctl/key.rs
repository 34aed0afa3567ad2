//! `gemctl key generate`, `show` and `babel-mac`: key files, without a daemon.

use super::{Exit, Failure};
use crate::keyfile::{self, KeyFileError};
use gemcast_engine::derive;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// What a key file is for.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A node's identity, one for each gateway: `identity` in `[node]`
    Node,
    /// A domain's bootstrap key, the same on every gateway: `bootstrap_key` in `[domain]`
    Bk,
    /// A group key, the same on every member of the group: `gak` in `[[group]]`
    Gak,
}

/// What may be known of a key file.
#[derive(Serialize)]
pub struct KeyFile {
    file: String,
    /// "identity" or "key".
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
}

impl KeyFile {
    fn identity(file: &Path, identity: &keyfile::Identity) -> Self {
        Self {
            file: file.display().to_string(),
            kind: "identity",
            node_id: Some(identity.node_id().to_string()),
            public_key: Some(identity.public_key().iter().map(|byte| format!("{byte:02x}")).collect()),
            fingerprint: Some(keyfile::public_fingerprint(&identity.public_key())),
        }
    }

    fn key(file: &Path, fingerprint: String) -> Self {
        let file = file.display().to_string();
        Self { file, kind: "key", node_id: None, public_key: None, fingerprint: Some(fingerprint) }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{}: {}\n", self.file, self.kind);
        let facts = [("node id", &self.node_id), ("public key", &self.public_key), ("fingerprint", &self.fingerprint)];
        for (name, fact) in facts {
            if let Some(fact) = fact {
                writeln!(text, "  {name}: {fact}").expect("a String grows");
            }
        }
        text
    }
}

/// Makes a key file.
pub fn generate(kind: Kind, file: &Path) -> Result<KeyFile, Failure> {
    match kind {
        Kind::Node => keyfile::generate_identity(file).map(|identity| KeyFile::identity(file, &identity)),
        Kind::Bk | Kind::Gak => keyfile::generate_key(file).map(|key| KeyFile::key(file, keyfile::fingerprint(&key))),
    }
    .map_err(|error| failure(&error))
}

/// Reads a key file and shows what may be shown.
pub fn show(file: &Path) -> Result<KeyFile, Failure> {
    let read = || {
        if keyfile::is_identity(file)? {
            keyfile::read_identity(file).map(|identity| KeyFile::identity(file, &identity))
        } else {
            keyfile::read_key(file).map(|key| KeyFile::key(file, keyfile::fingerprint(&key)))
        }
    };
    read().map_err(|error| failure(&error))
}

/// The line by which the administrator knows a node.
pub fn export(file: &Path, name: &str) -> Result<String, Failure> {
    super::kmg::check_name("--name", name)?;
    let identity = keyfile::read_identity(file).map_err(|error| failure(&error))?;
    Ok(super::kmg::node_line(&identity.public_key(), &identity.agreement_public_key(), name))
}

/// What two people compare to know that they mean the same key.
pub fn fingerprint(key: &str) -> Result<String, Failure> {
    if let Some(key) = keyfile::parse_public_key(key.trim()) {
        return Ok(keyfile::public_fingerprint(&key) + "\n");
    }
    let file = Path::new(key);
    let public = std::fs::read_to_string(file).ok().and_then(|text| keyfile::parse_public_key(text.trim()));
    if let Some(key) = public.filter(|_| file.extension().is_some_and(|extension| extension == "pub")) {
        return Ok(keyfile::public_fingerprint(&key) + "\n");
    }
    let shown = if keyfile::is_identity(file).map_err(|error| failure(&error))? {
        let identity = keyfile::read_identity(file).map_err(|error| failure(&error))?;
        keyfile::public_fingerprint(&identity.public_key())
    } else {
        keyfile::fingerprint(&keyfile::read_key(file).map_err(|error| failure(&error))?)
    };
    Ok(shown + "\n")
}

/// How Babel packets are authenticated.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mac {
    /// HMAC-SHA256
    #[default]
    HmacSha256,
    /// Keyed BLAKE2s of 128 bits
    Blake2s,
}

/// The key that stock Babel routers are configured with (RFC 8967), in their languages. Secret.
#[derive(Serialize)]
pub struct BabelMac {
    algorithm: &'static str,
    key: String,
    babeld: String,
    bird: String,
}

impl BabelMac {
    /// For people.
    pub fn text(&self) -> String {
        format!(
            "# babeld (babeld.conf; repeat the second line for each interface)\n{}\n\n# BIRD 2 (in protocol babel)\n{}\n",
            self.babeld, self.bird
        )
    }
}

/// Derives the key of the Babel MAC from a bootstrap key.
pub fn babel_mac(file: &Path, mac: Mac) -> Result<BabelMac, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(Exit::NotPermitted, "only root may see the key of the Babel domain; run it as root"));
    }
    let bootstrap_key = keyfile::read_key(file).map_err(|error| failure(&error))?;
    let key = derive::babel_mac_key(&bootstrap_key);
    let hex = key.expose().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (algorithm, babeld, bird) = match mac {
        Mac::HmacSha256 => ("hmac-sha256", "hmac-sha256", "hmac sha256"),
        Mac::Blake2s => ("blake2s", "blake2s128", "blake2s128"),
    };
    eprintln!("gemctl: warning: what follows is SECRET: whoever has it can join the domain's routing");
    Ok(BabelMac {
        algorithm,
        babeld: format!("key id gemcast type {babeld} value {}\ninterface wan0 key gemcast", hex),
        bird: format!("interface \"wan0\" {{\n  authentication mac;\n  password {} {{ algorithm {bird}; }};\n}};", hex),
        key: hex,
    })
}

fn failure(error: &KeyFileError) -> Failure {
    let exit = match error {
        KeyFileError::Read { error: io, .. } | KeyFileError::Write { error: io, .. }
            if io.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Exit::NotPermitted
        }
        _ => Exit::Error,
    };
    Failure::new(exit, error.to_string())
}
