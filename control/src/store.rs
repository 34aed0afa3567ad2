//! What outlives a restart: a small file in the state directory, replaced atomically.
//!
//! Nothing here is needed to run. A lost or damaged file is reported and made anew.

use crate::bundle::{self, BundleError};
use gemcast_engine::input::Floor;
use gemcast_engine::time::UnixMillis;
use gemcast_proto::id::Epoch;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const FILE: &str = "state.toml";
/// What the administrator said: see [`crate::bundle`].
const ADMINISTRATION: &str = "administration.gem";

/// Epochs of groups that are over.
const EPOCHS: &str = "epochs.toml";

/// The file of epochs that are over.
#[derive(Serialize, Deserialize, Default)]
struct Epochs {
    #[serde(default)]
    ended: Vec<Ended>,
}

/// One of its entries.
#[derive(Serialize, Deserialize)]
struct Ended {
    group: String,
    below: u16,
    since_ms: u64,
}

/// What is kept.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// Node id it belongs to.
    pub node_id: String,
    /// How often gemcastd started with it.
    pub starts: u64,
    /// Latest wall clock seen, milliseconds since the Unix epoch: a clock that is behind it went back.
    pub wall_ms: u64,
}

/// Why the state is not what it should be; the program goes on without.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or file cannot be used.
    #[error("cannot {what} {path}: {error}; nothing is remembered across restarts until it works")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The directory or file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The file is there but makes no sense.
    #[error("{path} is damaged and is made anew")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// What was kept of the administrator's objects makes no sense; neighbours have them.
    #[error(
        "{path} is damaged and not used: {error}; it is made anew from what neighbours say, or inject the files again"
    )]
    Administration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: BundleError,
    },
    /// Which epochs are over is not known any more; packages and keys that are in use tell most of it.
    #[error(
        "{path} is damaged and not used: epochs that the administrator ended may be accepted again until neighbours tell; \
         remove their key files from the configuration"
    )]
    Epochs {
        /// The file.
        path: PathBuf,
    },
    /// The file was left by another identity.
    #[error("{path} belongs to node {found}, this is node {expected}; it is made anew")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Node id in it.
        found: String,
        /// Our node id.
        expected: String,
    },
}

/// The state directory.
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// A store in this directory, made when the first state is saved.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.into() }
    }

    /// The state of this node: of the last run, or a fresh one, and what was wrong.
    pub fn load(&self, node_id: &str) -> (State, Option<StoreError>) {
        let path = self.dir.join(FILE);
        let fresh = State { node_id: node_id.to_owned(), ..State::default() };
        match fs::read_to_string(&path) {
            Ok(text) => match toml::from_str::<State>(&text) {
                Ok(state) if state.node_id == node_id => (state, None),
                Ok(state) => {
                    let error = StoreError::Foreign { path, found: state.node_id, expected: node_id.to_owned() };
                    (fresh, Some(error))
                }
                Err(_) => (fresh, Some(StoreError::Damaged { path })),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => (fresh, None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => (fresh, Some(StoreError::Damaged { path })),
            Err(error) => (fresh, Some(StoreError::Io { what: "read", path, error })),
        }
    }

    /// The administrator's objects that were kept.
    pub fn load_administration(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let path = self.dir.join(ADMINISTRATION);
        let wrong = |error| StoreError::Io { what: "read", path: path.clone(), error };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened.map_err(wrong)?,
        };
        let mut text = Vec::new();
        file.take(bundle::FILE_LEN_MAX).read_to_end(&mut text).map_err(wrong)?;
        bundle::read(&String::from_utf8_lossy(&text))
            .map_err(|error| StoreError::Administration { path: path.clone(), error })
    }

    /// Keeps the administrator's objects. Nothing in them is secret but to whom it is encrypted.
    pub fn save_administration(&self, bodies: &[Vec<u8>]) -> Result<(), StoreError> {
        self.replace(ADMINISTRATION, &bundle::write(bodies))
    }

    /// The epochs that were over.
    pub fn load_floors(&self) -> Result<Vec<Floor>, StoreError> {
        let path = self.dir.join(EPOCHS);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(StoreError::Epochs { path }),
            read => read.map_err(|error| StoreError::Io { what: "read", path: path.clone(), error })?,
        };
        let floor = |ended: Ended| {
            let group = ended.group.parse().ok()?;
            Some(Floor { group, epoch: Epoch(ended.below), since: UnixMillis(ended.since_ms) })
        };
        let epochs = toml::from_str::<Epochs>(&text).ok();
        epochs.and_then(|epochs| epochs.ended.into_iter().map(floor).collect()).ok_or(StoreError::Epochs { path })
    }

    /// Keeps the epochs that are over. Without any, and without a file of them, none is made.
    pub fn save_floors(&self, floors: &[Floor]) -> Result<(), StoreError> {
        if floors.is_empty() && !self.dir.join(EPOCHS).exists() {
            return Ok(());
        }
        let ended = floors.iter().map(|floor| Ended {
            group: floor.group.to_string(),
            below: floor.epoch.0,
            since_ms: floor.since.0,
        });
        let epochs = Epochs { ended: ended.collect() };
        self.replace(EPOCHS, &toml::to_string(&epochs).expect("plain values are TOML"))
    }

    /// Replaces the state.
    pub fn save(&self, state: &State) -> Result<(), StoreError> {
        self.replace(FILE, &toml::to_string(state).expect("plain values are TOML"))
    }

    /// Replaces a file: whoever reads it after a crash finds the old one or the new one, whole.
    fn replace(&self, name: &str, text: &str) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        let wrong = |what, path: &Path| {
            let path = path.to_owned();
            move |error| StoreError::Io { what, path, error }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(wrong("make", &self.dir))?;
        let new = self.dir.join(format!(".{name}.new"));
        let write = || {
            let mode = Mode::RUSR | Mode::WUSR;
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode.bits()).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(wrong("write", &new))?;
        fs::rename(&new, &path).map_err(wrong("replace", &path))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(wrong("sync", &self.dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("a/b"));
        let (fresh, error) = store.load("01:02");
        assert_eq!((fresh.starts, fresh.node_id.as_str()), (0, "01:02"));
        assert!(error.is_none(), "a first start is no error");
        let state = State { starts: 3, wall_ms: 77, ..fresh };
        store.save(&state).unwrap();
        store.save(&state).unwrap();
        let (found, error) = store.load("01:02");
        assert_eq!(found, state);
        assert!(error.is_none());
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn damage_and_strangers_are_told_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        for text in [&b"starts = {"[..], b"", b"\xff\xfe", b"node_id = 5"] {
            fs::write(dir.path().join(FILE), text).unwrap();
            let (state, error) = store.load("01:02");
            assert_eq!(state.starts, 0);
            assert!(error.unwrap().to_string().contains("is damaged"));
        }
        store.save(&State { node_id: "09:09".into(), starts: 5, wall_ms: 1 }).unwrap();
        let (state, error) = store.load("01:02");
        assert_eq!((state.node_id.as_str(), state.starts), ("01:02", 0));
        assert!(error.unwrap().to_string().contains("belongs to node 09:09"));
    }

    #[test]
    fn the_administrators_objects_are_kept_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        assert!(store.load_administration().unwrap().is_empty(), "a first start is no error");
        store.save_administration(&[vec![1, 2], vec![3]]).unwrap();
        assert_eq!(store.load_administration().unwrap(), [vec![1, 2], vec![3]]);
        let path = dir.path().join(ADMINISTRATION);
        let mut text = fs::read(&path).unwrap();
        text[20] ^= 1;
        fs::write(&path, &text).unwrap();
        assert!(store.load_administration().unwrap_err().to_string().contains("is damaged and not used"));
    }

    #[test]
    fn r1_epochs_that_are_over_are_kept_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        assert!(store.load_floors().unwrap().is_empty(), "a first start is no error");
        let floor = |group: &str, epoch| Floor {
            group: group.parse().unwrap(),
            epoch: Epoch(epoch),
            since: UnixMillis(1_800_000_000_000),
        };
        let floors = [floor("239.1.1.1", 2), floor("239.2.0.0/16", 65_535), floor("ff3e::/32", 7)];
        store.save_floors(&floors).unwrap();
        assert_eq!(store.load_floors().unwrap(), floors);
        store.save_floors(&[]).unwrap();
        assert!(store.load_floors().unwrap().is_empty(), "what was taken back is gone");
        for text in [&b"ended = 3"[..], b"\xff", b"[[ended]]\ngroup = \"x\"\nbelow = 1\nsince_ms = 1"] {
            fs::write(dir.path().join(EPOCHS), text).unwrap();
            assert!(store.load_floors().unwrap_err().to_string().contains("is damaged and not used"));
        }
    }

    #[test]
    fn a_directory_that_cannot_be_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let store = Store::new(&dir.path().join("file/state"));
        let error = store.save(&State::default()).unwrap_err().to_string();
        assert!(error.contains("file/state") && error.contains("nothing is remembered"), "{error}");
    }
}
