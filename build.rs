//! Says which of std's types there are. And for the tests of the kqueue backend on Linux, `--cfg wakewheel_libkqueue` in
//! RUSTFLAGS builds it against an installed libkqueue, which pkg-config finds.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    // std::io::pipe
    if rust_minor_version().is_some_and(|minor| minor >= 87) {
        println!("cargo::rustc-cfg=wakewheel_std_pipe");
    }
    if std::env::var_os("CARGO_CFG_WAKEWHEEL_LIBKQUEUE").is_none() {
        return ExitCode::SUCCESS;
    }
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
    let output = match Command::new("pkg-config").args(["--libs", "libkqueue"]).output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => return fail(String::from_utf8_lossy(&output.stderr).trim()),
        Err(e) => return fail(&format!("pkg-config: {e}")),
    };
    for flag in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        if let Some(dir) = flag.strip_prefix("-L") {
            println!("cargo::rustc-link-search=native={dir}");
            println!("cargo::rustc-link-arg=-Wl,-rpath,{dir}");
        } else if let Some(library) = flag.strip_prefix("-l") {
            println!("cargo::rustc-link-lib={library}");
        }
    }
    ExitCode::SUCCESS
}

/// 85 of "rustc 1.85.0 (…)".
fn rust_minor_version() -> Option<u32> {
    let output = Command::new(std::env::var_os("RUSTC")?).arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()?.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}

fn fail(why: &str) -> ExitCode {
    println!(
        "cargo::error=--cfg wakewheel_libkqueue needs libkqueue: install it, or say in PKG_CONFIG_PATH where it is"
    );
    println!("cargo::error={why}");
    ExitCode::FAILURE
}
