//! The generator: an XDP program that redirects every frame out of an interface, run by BPF_PROG_TEST_RUN over live frames.
//! The other end receives them as from a driver; no socket and no copy is in the way.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use gemcast_lab::{Datagram, Host};
use libbpf_rs::{ObjectBuilder, ProgramInput};

use crate::error::{Error, Result};

/// BPF_F_TEST_XDP_LIVE_FRAMES of linux/bpf.h.
const LIVE_FRAMES: u32 = 1 << 1;
/// Frames of one system call. Every call makes and destroys a pool of pages, which takes tens of milliseconds.
const FRAMES_PER_CALL: u32 = 1 << 18;
/// Ethernet, IPv4 and UDP header.
const HEADERS_LEN: usize = 42;

/// Compiles one of the programs beside this file.
pub(crate) fn compile(source: &str, name: &str, defines: &[String], directory: &Path) -> Result<PathBuf> {
    let input = directory.join(format!("{name}.c"));
    let output = directory.join(format!("{name}.o"));
    std::fs::write(&input, source).map_err(|error| Error::Io(input.display().to_string(), error))?;
    let defines = defines.iter().map(|define| format!("-D{define}"));
    let mut clang = Command::new("clang");
    clang.args(["-target", "bpf", "-O2", "-g", "-c"]).args(defines).arg(&input).arg("-o").arg(&output);
    let status = clang.status().map_err(|error| Error::Io("clang".into(), error))?;
    if status.success() { Ok(output) } else { Err(Error::Compile { program: name.into(), status }) }
}

/// Sends `datagram` from the host's first interface as fast as it can until `stop`. Returns how many frames were
/// offered.
pub(crate) fn flood(host: Host<'_>, datagram: &Datagram, directory: &Path, stop: &AtomicBool) -> Result<u64> {
    let link = host.run(&["ip", "-oneline", "link", "show", "dev", &host.interface().name])?;
    let ifindex = link.split(':').next().unwrap_or_default();
    let frame = datagram.to_frame();
    let headers = frame[..HEADERS_LEN].as_chunks::<2>().0.iter().fold(String::new(), |mut list, bytes| {
        let _ = write!(list, "{},", u16::from_le_bytes(*bytes));
        list
    });
    let defines = [format!("IFINDEX={ifindex}"), format!("HEADERS={headers}")];
    let object = compile(include_str!("sender.c"), &format!("sender-{ifindex}"), &defines, directory)?;
    host.namespace().enter(|| offer(&object, &frame, stop))?
}

fn offer(object: &Path, frame: &[u8], stop: &AtomicBool) -> Result<u64> {
    // Workers take the first cores; the kernel's part of receiving what is sent here runs here.
    let mut core = rustix::thread::CpuSet::new();
    core.set(std::thread::available_parallelism().map_or(1, usize::from) - 1);
    rustix::thread::sched_setaffinity(None, &core)
        .map_err(|error| Error::Io("pinning the generator".into(), error.into()))?;
    let failed = |error: libbpf_rs::Error| Error::Io(object.display().to_string(), std::io::Error::other(error));
    let mut builder = ObjectBuilder::default();
    let object = builder.open_file(object).and_then(|object| object.load()).map_err(failed)?;
    let program = object.progs_mut().next().expect("the object has one program");
    let mut offered = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut input = ProgramInput { data_in: Some(frame), ..ProgramInput::default() };
        (input.flags, input.repeat) = (LIVE_FRAMES, FRAMES_PER_CALL);
        program.test_run(input).map_err(failed)?;
        offered += u64::from(FRAMES_PER_CALL);
    }
    Ok(offered)
}
