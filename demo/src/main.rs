//! `make demo`: Holdfast, endpoints that echo, and a page with live sockets and buttons that would end them elsewhere.
//!
//! Runs the built program as anybody would, and has nothing of it inside but the small HTTP server. What it changes, it
//! changes as an operator would: it writes manifests, kills processes, orders a drain.

mod door;
mod live;
mod manifests;
mod site;
mod stage;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use holdfast::web;
use tokio::signal::unix::{SignalKind, signal};

use crate::{site::Site, stage::Demo};

/// Serves until it is interrupted.
#[derive(Debug, Parser)]
#[command(name = "holdfast-demo")]
struct Args {
    /// The program
    #[arg(long, value_name = "FILE", default_value = "target/release/holdfast")]
    holdfast: PathBuf,
    /// A folder of manifests to serve besides the demo's own
    #[arg(long, value_name = "DIR", default_value = "examples/quickstart")]
    manifests: PathBuf,
    /// Where clients connect
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    http: u16,
    /// Where the live view is
    #[arg(long, value_name = "PORT", default_value_t = 9478)]
    live: u16,
    /// Where the demo's page is
    #[arg(long, value_name = "PORT", default_value_t = 8090)]
    page: u16,
    /// The ports of the endpoints at the start
    #[arg(long, value_name = "PORT", value_delimiter = ',', default_value = "9001,9002")]
    endpoints: Vec<u16>,
    /// Open no browser
    #[arg(long)]
    no_browser: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(args: &Args) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let page = web::bind(local(args.page)).map_err(|error| taken(args.page, &error))?;
    let demo = Arc::new(Demo::start(args).await?);
    let site = Arc::new(Site::new(Arc::clone(&demo), args.http));
    let serving = web::serve(page, "demo", move |request| Arc::clone(&site).answer(request));
    let url = format!("http://localhost:{}/", args.page);
    print!("{}", banner(args, &url));
    if !args.no_browser {
        open_browser(&url);
    }
    let result = tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        result = serving => result,
        error = demo.watch() => Err(error),
    };
    tokio::task::spawn_blocking(move || demo.stop()).await?;
    result
}

fn banner(args: &Args, url: &str) -> String {
    let holdfast = args.holdfast.display();
    let (http, live) = (args.http, args.live);
    let manifests = args.manifests.display();
    let at = if live == 9478 {
        String::new()
    } else {
        format!(" --live 127.0.0.1:{live}")
    };
    format!(
        "
  {url}     the demo: live sockets, and buttons to try them with
  http://localhost:{live}/     the live view alone, as every Holdfast has it

Holdfast serves {manifests} and the demo's routes on port {http}. In another terminal:

  {holdfast} ping --count 0 ws://localhost:{http}/echo
  {holdfast} ends{at}
  {holdfast} why ws://localhost:{http}/echo --manifests {manifests}
  curl http://localhost:{http}/echo

Change a file in {manifests} and see that nothing ends. Ctrl-C ends the demo.

"
    )
}

/// Opens a browser where there are one and a display. Whatever goes wrong with it is of no interest.
fn open_browser(url: &str) {
    let has_display = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if has_display {
        let mut command = Command::new("xdg-open");
        command
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let _ = command.spawn();
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn taken(port: u16, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("port {port}: {error}; end the program that has it first"),
    )
}

/// Between two looks at something that is going to change.
const LOOK: Duration = Duration::from_millis(20);
