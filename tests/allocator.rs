//! The allocator's options are those that `.cargo/config.toml` sets, in the binary as it is built.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::process::Command;

#[test]
fn the_binary_has_the_options_it_was_built_with() {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["version", "--client"])
        .env("_RJEM_MALLOC_CONF", "stats_print:true")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    for option in [
        "opt.background_thread: true",
        "opt.dirty_decay_ms: 5000",
        "opt.muzzy_decay_ms: 5000",
        "opt.thp: \"never\"",
        "opt.narenas: 8",
    ] {
        assert!(printed.contains(option), "{option} is not in:\n{printed}");
    }
}
