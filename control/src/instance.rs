//! The instance's directory in the run directory, held by one daemon at a time.

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why the instance cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Another daemon has it.
    #[error("already running as process {pid} ({path}); stop it first, or choose another instance")]
    Running {
        /// Its process id, as it wrote it.
        pid: String,
        /// The lock.
        path: PathBuf,
    },
    /// The directory or lock cannot be made.
    #[error("cannot make {path}: {error}; expected a directory this user may write, set by run_dir in [node]")]
    Make {
        /// The directory or file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

/// The claimed instance; given up when dropped.
pub struct Instance {
    dir: PathBuf,
    lock: PathBuf,
    _file: File,
}

impl Instance {
    /// Claims the directory, making it if needed. The lock goes with the process, however that ends.
    pub fn claim(dir: &Path) -> Result<Self, InstanceError> {
        let make = |path: &Path| {
            let path = path.to_owned();
            move |error| InstanceError::Make { path, error }
        };
        make_directory(dir).map_err(make(dir))?;
        let lock = dir.join("gemcastd.pid");
        loop {
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&lock);
            let mut file = open.map_err(make(&lock))?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                let mut pid = String::new();
                // Who it is, is a courtesy.
                let _ = Read::by_ref(&mut file).take(16).read_to_string(&mut pid);
                return Err(InstanceError::Running { pid: pid.trim().to_owned(), path: lock });
            }
            // The daemon before may have removed the file between our opening and locking it.
            if fs::metadata(&lock).is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() == now.ino())) {
                file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(make(&lock))?;
                return Ok(Self { dir: dir.into(), lock, _file: file });
            }
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

/// Makes a directory, and those above it, that others may enter: sockets and maps in it say themselves who may use them.
fn make_directory(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        // The process's umask is strict.
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_directory(dir.parent().ok_or(error)?)?;
            make_directory(dir)
        }
        Err(error) => Err(error),
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // A file left behind does no harm: the lock on it is what counts.
        let _ = fs::remove_file(&self.lock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/left");
        let first = Instance::claim(&path).unwrap();
        let second = Instance::claim(&path).err().expect("a refusal").to_string();
        assert!(second.contains(&format!("already running as process {}", std::process::id())), "{second}");
        drop(first);
        assert!(!path.join("gemcastd.pid").exists(), "nothing is left behind");
        Instance::claim(&path).unwrap();
    }

    #[test]
    fn what_a_dead_daemon_left_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("gemcastd.pid"), "4711\n").unwrap();
        let instance = Instance::claim(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("gemcastd.pid")).unwrap(), format!("{}\n", std::process::id()));
        drop(instance);
    }

    #[test]
    fn a_directory_that_cannot_be_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = Instance::claim(&dir.path().join("file/x")).err().expect("a refusal").to_string();
        assert!(error.contains("file/x") && error.contains("run_dir"), "{error}");
    }
}
