//! `holdfast crd`: the CustomResourceDefinition, for `kubectl apply -f -`.

use std::process::ExitCode;

use crate::api;
use crate::cli::Failure;
use crate::cli::output::{ColorChoice, print};

/// Arguments of `holdfast crd`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Prints it.
#[must_use]
pub fn run(_args: &Args) -> ExitCode {
    match print(&api::crd_yaml()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::from(error).report(ColorChoice::Auto),
    }
}
