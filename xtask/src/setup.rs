//! Finds what building and testing need, and installs what is missing: quick when nothing is.
//!
//! The XDP program needs a compiler whose `core` can be built for BPF. Debian's `rustc-web` comes with its library source
//! and has it; `GEMCAST_EBPF_CARGO` and `GEMCAST_EBPF_RUSTC` name another one, which then is used as it is.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::command::{cargo, cargo_bin, find, output, run, text};
use crate::error::{Error, Result};

/// What to set up for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Building and running.
    Build,
    /// The tests' linters too.
    Everything,
}

const LINKER_VERSION: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";
const DENY_VERSION: &str = "0.20.2";
const FUZZ_VERSION: &str = "0.13.2";

/// Compiler of the XDP program.
const EBPF_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// LLVM for the linker of the XDP program; libxdp, libbpf and libFuzzer, which are built from source.
const BUILD_PACKAGES: [&str; 11] = [
    "llvm-22-dev",
    "clang",
    "libclang-dev",
    "libelf-dev",
    "libpcap-dev",
    "zlib1g-dev",
    "pkg-config",
    "m4",
    "make",
    "gcc",
    "g++",
];
/// The lab.
const LAB_PACKAGES: [&str; 3] = ["iproute2", "ethtool", "util-linux"];
/// Other Babel routers, ordinary tools and a model checker, which the tests meet.
const TEST_PACKAGES: [&str; 6] = ["babeld", "bird2", "frr", "socat", "spin", "tcpdump"];
/// What the benchmarks measure beside gemcast.
pub(crate) const BENCH_PACKAGES: [&str; 2] = ["smcroute", "babeld"];
/// Says whether packages may start their services; asked by their installation scripts, and there only if made.
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing.
pub(crate) fn install(scope: Scope) -> Result<()> {
    debian_packages(scope)?;
    linker()?;
    if scope == Scope::Everything {
        rust_components()?;
        tool("cargo-deny", DENY_VERSION)?;
        tool("cargo-fuzz", FUZZ_VERSION)?;
    }
    Ok(())
}

fn step(name: &str, outcome: &str) {
    eprintln!("setup: {name}: {outcome}");
}

fn debian_packages(scope: Scope) -> Result<()> {
    let other_compiler = env::var_os("GEMCAST_EBPF_CARGO").is_some();
    let ebpf = EBPF_PACKAGES.into_iter().filter(|_| !other_compiler);
    // Headers of the 32-bit ABI, which clang wants when it compiles for BPF; other architectures have no such package.
    let multilib = cfg!(target_arch = "x86_64").then_some("gcc-multilib");
    let tests = TEST_PACKAGES.into_iter().filter(|_| scope == Scope::Everything);
    packages(&ebpf.chain(BUILD_PACKAGES).chain(multilib).chain(LAB_PACKAGES).chain(tests).collect::<Vec<_>>())
}

/// Installs those of these Debian packages that are missing.
pub(crate) fn packages(wanted: &[&str]) -> Result<()> {
    const STEP: &str = "Debian packages";
    let query = output(Command::new("dpkg-query").args(["--show", "--showformat=${Package} ${db:Status-Status}\n"]));
    let Some(query) = query else {
        if find("dpkg-query").is_some() {
            return Err(Error::Io("dpkg-query".into(), std::io::Error::other("it does not answer")));
        }
        let fix = format!("apt-get install {}", wanted.join(" "));
        return not_debian(wanted, fix);
    };
    let installed: Vec<_> = query.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    let missing: Vec<_> = wanted.iter().copied().filter(|package| !installed.contains(package)).collect();
    if missing.is_empty() {
        step(STEP, &format!("all {} are there", wanted.len()));
        return Ok(());
    }
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]).args(&missing);
    if !is_root() {
        let fix = format!("apt-get update && {}", text(&install));
        return Err(Error::Privilege { missing: format!("missing Debian packages: {}", missing.join(" ")), fix });
    }
    step(STEP, &format!("installing {}", missing.join(" ")));
    run(Command::new("apt-get").args(["update", "--quiet"]))?;
    without_services(|| run(install.env("DEBIAN_FRONTEND", "noninteractive")))
}

/// Keeps packages from starting their services meanwhile: the tests' routers are not to run on the machine itself.
fn without_services(install: impl FnOnce() -> Result<()>) -> Result<()> {
    let policy = Path::new(SERVICE_POLICY);
    if policy.exists() {
        return install();
    }
    let io = |error| Error::Io(SERVICE_POLICY.into(), error);
    fs::write(policy, "#!/bin/sh\nexit 101\n").map_err(io)?;
    fs::set_permissions(policy, fs::Permissions::from_mode(0o755)).map_err(io)?;
    let installed = install();
    fs::remove_file(policy).map_err(io)?;
    installed
}

/// On other systems the programs are looked for, and what provides them is the operator's to install.
fn not_debian(packages: &[&str], fix: String) -> Result<()> {
    let programs = ["clang", "m4", "make", "gcc", "pkg-config", "ip", "ethtool", "nsenter"];
    let missing: Vec<_> = programs.into_iter().filter(|program| find(program).is_none()).collect();
    if missing.is_empty() {
        step("packages", &format!("cannot be asked for here; wanted are the likes of {}", packages.join(" ")));
        return Ok(());
    }
    Err(Error::NotDebian { missing: format!("missing programs: {}", missing.join(" ")), fix })
}

fn linker() -> Result<()> {
    let step = |outcome: &str| step(&format!("bpf-linker {LINKER_VERSION}"), outcome);
    let named = env::var_os("GEMCAST_BPF_LINKER").map(Into::into);
    let present = named.or_else(|| find("bpf-linker"));
    let version = present.as_ref().and_then(|path| output(Command::new(path).arg("--version")));
    if version.is_some_and(|version| version.trim().ends_with(LINKER_VERSION)) {
        step("is there");
        return Ok(());
    }
    step(&format!("building it into {}", cargo_bin().display()));
    let path = env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(Path::new(LLVM).join("bin")).chain(env::split_paths(&path));
    run(cargo()
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", "llvm-22"])
        .env("LLVM_PREFIX", LLVM)
        .env("PATH", env::join_paths(path).expect("no directory on PATH has a colon")))
}

fn rust_components() -> Result<()> {
    const STEP: &str = "rustfmt and clippy";
    // Cargo's own directory is its toolchain's; the proxies in ~/.cargo/bin exist for missing components too.
    let own = env::var_os("CARGO");
    let toolchain = own.as_deref().and_then(|cargo| Path::new(cargo).parent());
    let has = |program: &str| toolchain.map_or_else(|| find(program).is_some(), |dir| dir.join(program).exists());
    if has("rustfmt") && has("clippy-driver") {
        step(STEP, "are there");
        return Ok(());
    }
    step(STEP, "installing them");
    run(Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]))
}

/// A tool of cargo's, in this version. It runs for seconds: built for a short build, not for speed.
fn tool(package: &str, version: &str) -> Result<()> {
    let step = |outcome: &str| step(&format!("{package} {version}"), outcome);
    let present = find(package).and_then(|path| output(Command::new(path).arg("--version")));
    if present.is_some_and(|present| present.trim().ends_with(version)) {
        step("is there");
        return Ok(());
    }
    step(&format!("building it into {}", cargo_bin().display()));
    run(cargo()
        .args(["install", package, "--version", version, "--locked", "--force"])
        .env("CARGO_PROFILE_RELEASE_LTO", "false")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "64"))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
