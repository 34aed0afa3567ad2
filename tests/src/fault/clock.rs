//! A wall clock that is wrong in one process only.
//!
//! Time namespaces leave CLOCK_REALTIME alone, and a preloaded library does not see who asks the vDSO directly. So the
//! process's own copy of the vDSO is written over, through `/proc/PID/mem`, as a debugger sets a breakpoint: what tells the
//! wall clock becomes the system call and an addition. It takes effect at once, and ends with the process.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::Signal;

use crate::error::{Error, Result};
use crate::process::ProcessId;

/// How long the process may be busy in the vDSO or be on its way to stop.
const PATIENCE: Duration = Duration::from_secs(5);
/// Program header: dynamic section. Dynamic entries: string table, symbol table, hash of the symbols (ELF-64).
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const SYMBOL_LEN: usize = 24;

/// Makes every read of the wall clock in this process, by whichever thread, wrong by so many seconds.
pub(crate) fn skew(process: ProcessId, seconds: i64) -> Result<()> {
    let what = || format!("setting the wall clock of process {} off by {seconds} s", process.pid);
    if cfg!(not(target_arch = "x86_64")) {
        let reason = "known for x86-64 only".into();
        return Err(Error::Unreadable { what: what(), reason });
    }
    process.signal(Signal::STOP).map_err(Error::io(what()))?;
    let written = write_stopped(process, seconds);
    process.signal(Signal::CONT).map_err(Error::io(what()))?;
    written.map_err(Error::io(what()))
}

/// The command, which stops itself before it becomes what it is.
pub(crate) fn stopped_first(command: &Command) -> Command {
    let mut stopped = Command::new("sh");
    stopped.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    stopped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    stopped
}

/// Makes the wall clock of a child that [`stopped_first`] was made for wrong from its first instruction as `binary` on.
pub(crate) fn skew_from_the_start(child: ProcessId, binary: &str, seconds: i64) -> Result<()> {
    let what = || format!("starting {binary} with its wall clock off by {seconds} s");
    follow_to(child, binary, seconds).map_err(Error::io(what()))
}

/// Follows the child through what it executes until that is the binary.
fn follow_to(child: ProcessId, binary: &str, seconds: i64) -> io::Result<()> {
    let pid = Pid::from_raw(child.pid);
    let exe = Path::new("/proc").join(child.pid.to_string()).join("exe");
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
    if !matches!(stopped, WaitStatus::Stopped(..)) {
        return Err(io::Error::other(format!("it did not stop first: {stopped:?}")));
    }
    ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACEEXEC)?;
    child.signal(Signal::CONT)?;
    loop {
        match waitpid(pid, None)? {
            WaitStatus::PtraceEvent(_, _, event) if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 => {
                if fs::read_link(&exe)?.ends_with(binary) {
                    Image::of(child)?.write(seconds)?;
                    return Ok(ptrace::detach(pid, None)?);
                }
                ptrace::cont(pid, None)?;
            }
            WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..) => ptrace::cont(pid, None)?,
            ended => return Err(io::Error::other(format!("it ended: {ended:?}"))),
        }
    }
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// A process's copy of the vDSO.
struct Image {
    memory: File,
    from: u64,
    bytes: Vec<u8>,
}

impl Image {
    fn of(process: ProcessId) -> io::Result<Self> {
        let proc = Path::new("/proc").join(process.pid.to_string());
        let maps = fs::read_to_string(proc.join("maps"))?;
        let line = maps.lines().find(|line| line.ends_with("[vdso]")).ok_or_else(|| bad("it has no vDSO"))?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let range = line.split_whitespace().next().and_then(|range| range.split_once('-'));
        let (from, to) = range
            .and_then(|(from, to)| number(from).zip(number(to)))
            .ok_or_else(|| bad("/proc/PID/maps: unexpected form"))?;
        let mut memory = File::options().read(true).write(true).open(proc.join("mem"))?;
        let mut bytes = vec![0; (to - from) as usize];
        memory.seek(SeekFrom::Start(from))?;
        memory.read_exact(&mut bytes)?;
        Ok(Self { memory, from, bytes })
    }

    fn write(&mut self, seconds: i64) -> io::Result<()> {
        for (name, code) in replacements(seconds) {
            let (at, room) = function(&self.bytes, name).ok_or_else(|| bad(&format!("its vDSO has no {name}")))?;
            if room < code.len() {
                return Err(bad(&format!("{name} of its vDSO has {room} bytes, {} are needed", code.len())));
            }
            self.memory.seek(SeekFrom::Start(self.from + at as u64))?;
            self.memory.write_all(&code)?;
        }
        Ok(())
    }
}

fn write_stopped(process: ProcessId, seconds: i64) -> io::Result<()> {
    let mut image = Image::of(process)?;
    let range = image.from..image.from + image.bytes.len() as u64;
    let start = Instant::now();
    while !is_outside(process, &range)? {
        if start.elapsed() > PATIENCE {
            return Err(bad("it does not stop outside of its vDSO"));
        }
        // Let go for a moment, it is elsewhere the next time.
        process.signal(Signal::CONT)?;
        process.signal(Signal::STOP)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    image.write(seconds)
}

/// Whether every thread is stopped, and not inside this range.
fn is_outside(process: ProcessId, range: &Range<u64>) -> io::Result<bool> {
    let tasks = fs::read_dir(Path::new("/proc").join(process.pid.to_string()).join("task"))?;
    let paths: Vec<PathBuf> = tasks.flatten().map(|task| task.path().join("syscall")).collect();
    for path in paths {
        // The last number is where user space goes on; a thread that runs has none.
        let text = fs::read_to_string(path)?;
        let pc =
            text.split_whitespace().last().and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        if pc.is_none_or(|pc| range.contains(&pc)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The vDSO's functions that tell the wall clock, each as its system call and the addition.
fn replacements(seconds: i64) -> [(&'static str, Vec<u8>); 3] {
    let with_seconds = |before: &[u8], after: &[u8]| [before, &[0x48, 0xb9], &seconds.to_le_bytes(), after].concat();
    let clock_gettime = with_seconds(
        &[
            0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228
            0x0f, 0x05, // syscall
            0x85, 0xff, // test edi, edi: is it CLOCK_REALTIME?
            0x75, 0x0d, // jne ret
        ], // mov rcx, seconds
        &[0x48, 0x01, 0x0e, 0xc3], // add [rsi], rcx; ret
    );
    let gettimeofday = with_seconds(
        &[
            0xb8, 0x60, 0x00, 0x00, 0x00, // mov eax, 96
            0x0f, 0x05, // syscall
            0x48, 0x85, 0xff, // test rdi, rdi
            0x74, 0x0d, // je ret
        ],
        &[0x48, 0x01, 0x0f, 0xc3], // add [rdi], rcx; ret
    );
    let time = with_seconds(
        &[
            0xb8, 0xc9, 0x00, 0x00, 0x00, // mov eax, 201
            0x0f, 0x05, // syscall
        ],
        &[
            0x48, 0x01, 0xc8, // add rax, rcx
            0x48, 0x85, 0xff, // test rdi, rdi
            0x74, 0x03, // je ret
            0x48, 0x89, 0x07, // mov [rdi], rax
            0xc3, // ret
        ],
    );
    [("__vdso_clock_gettime", clock_gettime), ("__vdso_gettimeofday", gettimeofday), ("__vdso_time", time)]
}

/// Offset and length of a function in an ELF-64 image as it is in memory.
fn function(image: &[u8], name: &str) -> Option<(usize, usize)> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(*image.get(at..)?.first_chunk()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(*image.get(at..)?.first_chunk()?));
    let headers = u64_at(32)? as usize;
    let header = |kind| {
        let mut places = (0..usize::from(u16_at(56)?)).map(|index| headers + index * 56);
        places.find(|place| u32_at(*place) == Some(kind))
    };
    // Addresses in the image are meant from where its loaded part begins.
    let base = u64_at(header(PT_LOAD)? + 16)?;
    let dynamic = u64_at(header(PT_DYNAMIC)? + 8)? as usize;
    let entry = |tag| {
        let mut places = (0..64).map(|index| dynamic + index * 16);
        places.find(|place| u64_at(*place) == Some(tag)).and_then(|place| u64_at(place + 8))
    };
    let (names, symbols) = ((entry(DT_STRTAB)? - base) as usize, (entry(DT_SYMTAB)? - base) as usize);
    // The old hash table says how many symbols there are; else the string table, which follows them, where they end.
    let count = match entry(DT_HASH) {
        Some(hash) => u32_at((hash - base) as usize + 4)? as usize,
        None => entry(DT_GNU_HASH).and(names.checked_sub(symbols))? / SYMBOL_LEN,
    };
    let symbol = (0..count).map(|index| symbols + index * SYMBOL_LEN).find(|symbol| {
        let text = u32_at(*symbol).and_then(|at| image.get(names + at as usize..));
        text.is_some_and(|text| text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0)))
    })?;
    Some(((u64_at(symbol + 8)? - base) as usize, u64_at(symbol + 16)? as usize))
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::process::Stdio;
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_process_is_told_the_wrong_time_and_ours_is_right() {
        // Tells the time whenever it is asked, by the same process.
        let script = "while read line; do echo ${EPOCHREALTIME%.*}; done";
        let mut child =
            Command::new("bash").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        let (mut ask, mut answer) = (child.stdin.take().unwrap(), io::BufReader::new(child.stdout.take().unwrap()));
        let mut off = || {
            ask.write_all(b"\n").unwrap();
            let mut line = String::new();
            io::BufRead::read_line(&mut answer, &mut line).unwrap();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
            line.trim().parse::<i64>().unwrap() - now
        };
        assert!((-2..=2).contains(&off()));
        for seconds in [600, -20, 0] {
            skew(process, seconds).unwrap();
            assert!((seconds - 2..=seconds + 2).contains(&off()), "{seconds}");
        }
        drop(ask);
        assert!(child.wait().unwrap().success());
    }
}
