//! BPF maps that somebody else changed: pins removed, keys wiped, keys scribbled over.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::gateway::{Daemon, Gateway};

/// BPF_MAP_TYPE_ARRAY.
const ARRAY: u64 = 2;
/// Lengths of the values of `SEKS` and `COUNTERS`, by which they are told apart.
const KEYS: u64 = 256;
const COUNTERS: u64 = 136;
const MAX_PAGE: u64 = 65536;

/// What is done to a gateway's maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MapFault {
    /// The pins are removed; the maps live on with those who have them open.
    Unpin,
    /// The map of keys is filled with zeroes.
    Empty,
    /// The map of keys is filled with noise.
    Scribble,
    /// The map of packet counters is filled with zeroes.
    Counters,
}

impl MapFault {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Unpin, Self::Empty, Self::Scribble, Self::Counters];

    /// Name, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unpin => "unpin",
            Self::Empty => "empty",
            Self::Scribble => "scribble",
            Self::Counters => "counters",
        }
    }
}

impl Gateway<'_> {
    /// Does this to the gateway's maps. To write over them, its control daemon has to run.
    pub fn harm_maps(&self, fault: MapFault) -> Result<()> {
        let bpf = self.run_dir().join("default/bpf");
        match fault {
            MapFault::Unpin => {
                // The file system has files of its own at its root, which stay.
                let find = format!("find {} -mindepth 2 -type f -delete", bpf.display());
                self.host().run(&["sh", "-euc", &find]).map(drop)
            }
            MapFault::Empty => self.overwrite(KEYS, |bytes| bytes.fill(0)),
            MapFault::Scribble => self.overwrite(KEYS, |bytes| ChaCha8Rng::seed_from_u64(1).fill_bytes(bytes)),
            MapFault::Counters => self.overwrite(COUNTERS, |bytes| bytes.fill(0)),
        }
    }

    /// Writes over one of the maps that control has mapped, through that process's memory.
    fn overwrite(&self, value_len: u64, fill: impl Fn(&mut [u8])) -> Result<()> {
        let what = || format!("writing over a map of {}", self.host().name());
        let missing = |reason: &str| Error::Unreadable { what: what(), reason: reason.into() };
        let process = self.process(Daemon::Control).ok_or_else(|| missing("gemcastd does not run"))?;
        let proc = Path::new("/proc").join(process.pid.to_string());
        let len = mapped_len(&proc, value_len).map_err(Error::io(what()))?;
        let len = len.ok_or_else(|| missing("it has no such map open"))?;
        let maps = fs::read_to_string(proc.join("maps")).map_err(Error::io(what()))?;
        let mut mapped = maps.lines().filter(|line| line.contains("bpf-map")).filter_map(|line| {
            let (from, to) = line.split_whitespace().next()?.split_once('-')?;
            Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
        });
        // Mapped are whole pages, of whatever size this machine's are.
        let (from, _) = mapped
            .find(|(from, to)| (len..len + MAX_PAGE).contains(&(to - from)))
            .ok_or_else(|| missing("it has none mapped"))?;
        let mut bytes = vec![0; len as usize];
        fill(&mut bytes);
        let write = || -> io::Result<()> {
            let mut memory = File::options().write(true).open(proc.join("mem"))?;
            memory.seek(SeekFrom::Start(from))?;
            memory.write_all(&bytes)
        };
        write().map_err(Error::io(what()))
    }
}

/// How long an array is whose values have this length, if the process has such a one open.
fn mapped_len(proc: &Path, value_len: u64) -> io::Result<Option<u64>> {
    for entry in fs::read_dir(proc.join("fdinfo"))?.flatten() {
        // A descriptor may be closed meanwhile.
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| *key == name).and_then(|(_, value)| value.trim().parse::<u64>().ok())
        };
        if (field("map_type"), field("value_size")) == (Some(ARRAY), Some(value_len)) {
            let bytes = field("max_entries").unwrap_or(0) * value_len.next_multiple_of(8);
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}
