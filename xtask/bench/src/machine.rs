//! What the machine is, and what it spends its time on.

use std::collections::BTreeMap;
use std::fs;

/// Clock ticks of /proc per second; the kernel's ABI.
const TICKS: f64 = 100.0;

/// Kernel, processor and number of cores.
pub(crate) fn describe() -> BTreeMap<&'static str, String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("unknown", |(_, value)| value.trim()).to_owned()
    };
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    BTreeMap::from([
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("cpu", format!("{}, family {}, model {}", field("model name"), field("cpu family"), field("model\t"))),
        ("cores", cores.to_string()),
    ])
}

/// CPU time so far.
pub(crate) struct CpuTime {
    /// All cores, softirq included, in seconds.
    busy: f64,
    /// Of every process, in seconds.
    processes: BTreeMap<u32, f64>,
}

/// CPU time spent between two readings.
#[derive(Clone, Copy)]
pub(crate) struct Spent {
    /// By this benchmark, its daemons, kernel threads and softirq.
    pub(crate) own: f64,
    /// By other processes.
    pub(crate) foreign: f64,
}

impl CpuTime {
    pub(crate) fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = stat.lines().next().unwrap_or_default();
        let columns: Vec<f64> = first.split_whitespace().skip(1).filter_map(|column| column.parse().ok()).collect();
        // user nice system idle iowait irq softirq; the rest is steal and guests, counted in user already.
        let busy: f64 = [0, 1, 2, 5, 6].iter().filter_map(|&column| columns.get(column)).sum();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let processes = entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Some((pid, process_time(pid)?)))
            .collect();
        Self { busy: busy / TICKS, processes }
    }

    /// What was spent since `earlier`; the processes `own` are this benchmark's.
    pub(crate) fn since(&self, earlier: &Self, own: &[u32]) -> Spent {
        // A process that ended in between has left its time to its parent, so only the sums can be compared.
        let others = |time: &Self| -> f64 {
            time.processes.iter().filter(|(pid, _)| !own.contains(pid)).map(|(_, seconds)| seconds).sum()
        };
        let foreign = (others(self) - others(earlier)).max(0.0);
        Spent { own: (self.busy - earlier.busy - foreign).max(0.0), foreign }
    }
}

/// CPU time of a process and of its children that ended, in seconds; `None` for kernel threads.
fn process_time(pid: u32) -> Option<f64> {
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let fields = stat_fields(pid)?;
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    if field(9)? & KERNEL_THREAD != 0 {
        return None;
    }
    Some((field(14)? + field(15)? + field(16)? + field(17)?) as f64 / TICKS)
}

/// Fields of /proc/PID/stat from the third on; the second, the name, may contain anything.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// CPU time of one process in seconds.
pub(crate) fn cpu_of(pid: u32) -> f64 {
    process_time(pid).unwrap_or(0.0)
}

/// Time a process spent running on a CPU, exactly where the kernel keeps account of it, in seconds.
pub(crate) fn running_time_of(pid: u32) -> f64 {
    let exact = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok();
    let exact = exact.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    exact.map_or_else(|| cpu_of(pid), |nanoseconds| nanoseconds / 1e9)
}

/// Resident memory of a process in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}
