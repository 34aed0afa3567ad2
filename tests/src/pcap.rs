//! Capture files that Wireshark reads: libpcap's own format, nanosecond timestamps, Ethernet.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A capture file being written.
pub(crate) struct PcapFile {
    file: BufWriter<File>,
}

impl PcapFile {
    /// Makes the file and writes its header.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        // Magic of nanosecond files, version 2.4, zone and accuracy unused, snap length, link type Ethernet.
        for word in [0xa1b2_3c4d, 2 | 4 << 16, 0, 0, 65535, 1u32] {
            file.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { file })
    }

    /// Appends a frame, received now.
    pub(crate) fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let len = frame.len() as u32;
        for word in [now.as_secs() as u32, now.subsec_nanos(), len, len] {
            self.file.write_all(&word.to_le_bytes())?;
        }
        self.file.write_all(frame)
    }

    /// Writes out what is buffered.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.file.flush()
    }
}
