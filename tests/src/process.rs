//! Processes the lab started, told apart from later ones of the same pid by their start time.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};
use serde::{Deserialize, Serialize};

/// A process: pid, and start time in clock ticks since boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has this pid now.
    pub fn of(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        let (_, start_time) = stat(pid)?;
        Ok(Self { pid, start_time })
    }

    /// Whether it still runs. One that ended and was not waited for does not.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_ok_and(|(state, start_time)| start_time == self.start_time && !matches!(state, 'Z' | 'X'))
    }

    /// Sends a signal; to a process that is gone, none.
    pub fn signal(self, signal: Signal) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill_process(self.raw(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has ended; answers whether it has.
    pub fn wait_exit(self, timeout: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + timeout;
        while self.is_alive() {
            let Ok(pidfd) = pidfd_open(self.raw(), PidfdFlags::empty()) else { break };
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return Ok(false) };
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Ours to reap only when it is a child of ours; otherwise init does.
        let _ = waitpid(Some(self.raw()), WaitOptions::NOHANG);
        Ok(true)
    }

    fn raw(self) -> Pid {
        Pid::from_raw(self.pid).expect("a pid is positive")
    }
}

/// Processes whose environment, as it was at their start, holds this `NAME=value`.
pub(crate) fn marked(mark: &str) -> Vec<ProcessId> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| environment_has(*pid, mark))
        .filter_map(|pid| ProcessId::of(pid).ok())
        .collect()
}

fn environment_has(pid: u32, mark: &str) -> bool {
    fs::read(Path::new("/proc").join(pid.to_string()).join("environ"))
        .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()))
}

/// State letter and start time from `/proc/PID/stat`. The command name before them may hold anything, parentheses too.
fn stat(pid: i32) -> io::Result<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: unexpected form"));
    let (_, fields) = text.rsplit_once(')').ok_or_else(bad)?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next().and_then(|field| field.chars().next()).ok_or_else(bad)?;
    let start_time = fields.nth(18).and_then(|field| field.parse().ok()).ok_or_else(bad)?;
    Ok((state, start_time))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    #[expect(clippy::zombie_processes, reason = "`wait_exit` reaps it, which is what is tested")]
    fn a_killed_child_is_seen_as_ended_and_reaped() {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        assert!(process.is_alive());
        assert!(!process.wait_exit(Duration::from_millis(10)).unwrap());
        process.signal(Signal::KILL).unwrap();
        assert!(process.wait_exit(Duration::from_secs(5)).unwrap());
        assert!(!process.is_alive());
        assert!(!Path::new(&format!("/proc/{}", process.pid)).exists(), "it was reaped");
    }

    #[test]
    fn another_process_of_the_same_pid_is_not_it() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { start_time: own.start_time + 1, ..own }.is_alive());
    }
}
