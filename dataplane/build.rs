//! Compiles the XDP program for the BPF target, so that it is embedded in the data plane's binary.
//!
//! A rustup toolchain without `rust-src` cannot build `core` for BPF; Debian's `rustc-web` with `rust-web-src` can, and so
//! can a nightly that has `rust-src`. `GEMCAST_EBPF_CARGO` and `GEMCAST_EBPF_RUSTC` name other ones.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = "gemcast-xdp";

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace");
    for input in ["xdp-ebpf/src", "xdp-ebpf/Cargo.toml", "proto/src", "proto/Cargo.toml", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    for variable in ["GEMCAST_EBPF_CARGO", "GEMCAST_EBPF_RUSTC", "GEMCAST_BPF_LINKER"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let target = out.join("ebpf");
    let cargo = env::var_os("GEMCAST_EBPF_CARGO").unwrap_or_else(|| "/usr/bin/cargo".into());
    let rustc = env::var_os("GEMCAST_EBPF_RUSTC").unwrap_or_else(|| "/usr/bin/rustc".into());
    let linker = linker();
    let flags = format!("-Clinker={} -Cdebuginfo=2 -Clink-arg=--btf", linker.display()).replace(' ', "\u{1f}");
    let status = Command::new(&cargo)
        .current_dir(root)
        .args(["build", "--package", "gemcast-xdp-ebpf", "--bin", PROGRAM, "--no-default-features"])
        .args(["--features", "program", "--release", "--target", "bpfel-unknown-none", "-Zbuild-std=core"])
        .arg("--target-dir")
        .arg(&target)
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("RUSTC", &rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "building the XDP program failed ({status}) with {} and {}; `cargo xtask setup` installs what it needs",
            Path::new(&cargo).display(),
            linker.display()
        ),
        Err(error) => panic!(
            "cannot run {}: {error}; `cargo xtask setup` installs the eBPF compiler",
            Path::new(&cargo).display()
        ),
    }
    let object = target.join("bpfel-unknown-none/release").join(PROGRAM);
    println!("cargo::rustc-env=GEMCAST_XDP_OBJECT={}", object.display());
}

fn linker() -> PathBuf {
    if let Some(path) = env::var_os("GEMCAST_BPF_LINKER") {
        return path.into();
    }
    let cargo_bin = env::var_os("CARGO_HOME").map(|home| Path::new(&home).join("bin/bpf-linker"));
    cargo_bin.filter(|path| path.exists()).unwrap_or_else(|| "bpf-linker".into())
}
