//! `gemctl key generate` and `gemctl key show`: key files, without a daemon.

use super::{Exit, Failure};
use crate::keyfile::{self, KeyFileError};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// What a key file is for.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A node's identity: Ed25519 and X25519 private keys
    Node,
    /// A domain's bootstrap key
    Bk,
    /// A group authorization key
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
            fingerprint: None,
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
