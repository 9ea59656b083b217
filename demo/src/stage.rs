//! The processes of the demo, and what the buttons do to them.

use std::{
    io,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{Args, LOOK, door::Door, live, local, manifests::Folder, taken};

/// Everything that runs.
#[derive(Debug)]
pub struct Demo {
    program: PathBuf,
    folder: Folder,
    /// Where clients connect, and where the live view is: of whichever process serves now.
    http: Door,
    live: Door,
    cast: Mutex<Cast>,
    /// Held while a button's work is done.
    busy: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Cast {
    endpoints: Vec<Endpoint>,
    /// The one that serves, last; before it those that drain.
    holdfasts: Vec<Holdfast>,
    edits: u32,
    /// What is being done, or has been done last.
    says: String,
    is_busy: bool,
}

#[derive(Debug)]
struct Endpoint {
    name: String,
    port: u16,
    /// `None`: killed.
    process: Option<Process>,
}

#[derive(Debug)]
struct Holdfast {
    process: Process,
    live: u16,
}

/// What a button does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Edit,
    Kill,
    Add,
    Drain,
}

impl Act {
    pub fn of(word: &str) -> Option<Self> {
        match word {
            "edit" => Some(Self::Edit),
            "kill" => Some(Self::Kill),
            "add" => Some(Self::Add),
            "drain" => Some(Self::Drain),
            _ => None,
        }
    }
}

impl Demo {
    /// Starts the endpoints, then Holdfast in front of them.
    pub async fn start(args: &Args) -> io::Result<Self> {
        let demo = Self {
            program: args.holdfast.clone(),
            folder: Folder::new(&args.manifests)?,
            http: Door::open(args.http, 0).await?,
            live: Door::open(args.live, 0).await?,
            cast: Mutex::default(),
            busy: tokio::sync::Mutex::new(()),
        };
        for port in &args.endpoints {
            demo.start_endpoint(*port).await?;
        }
        let live = demo.start_holdfast().await?;
        demo.live.lead_to(live);
        demo.cast().says = "Everything runs.".to_owned();
        Ok(demo)
    }

    /// Returns when the Holdfast that serves has ended by itself.
    pub async fn watch(&self) -> io::Error {
        loop {
            sleep(10 * LOOK).await;
            let mut cast = self.cast();
            if let Some(status) = cast.holdfasts.last_mut().and_then(|holdfast| holdfast.process.ended()) {
                return io::Error::other(format!("Holdfast has ended: {status}"));
            }
        }
    }

    /// Ends all processes, Holdfast first.
    pub fn stop(&self) {
        let mut cast = self.cast();
        let endpoints = std::mem::take(&mut cast.endpoints);
        let mut processes: Vec<Process> = cast.holdfasts.drain(..).map(|holdfast| holdfast.process).collect();
        processes.extend(endpoints.into_iter().filter_map(|endpoint| endpoint.process));
        processes.iter_mut().for_each(Process::end);
    }

    /// The port of the live listener that is looked at.
    pub fn live(&self) -> u16 {
        self.live.target()
    }

    /// What the page shows of it.
    pub fn state(&self) -> Value {
        let cast = self.cast();
        let endpoint =
            |endpoint: &Endpoint| json!({ "name": endpoint.name, "port": endpoint.port, "runs": endpoint.process.is_some() });
        json!({
            "endpoints": cast.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
            "processes": cast.holdfasts.len(),
            "edits": cast.edits,
            "says": cast.says,
            "busy": cast.is_busy,
        })
    }

    /// Does what a button says; false: something else is being done.
    pub async fn act(&self, act: Act) -> bool {
        let Ok(_busy) = self.busy.try_lock() else { return false };
        self.cast().is_busy = true;
        let done = match act {
            Act::Edit => self.edit().await,
            Act::Kill => self.kill().await,
            Act::Add => self.add().await,
            Act::Drain => self.drain().await,
        };
        let mut cast = self.cast();
        cast.is_busy = false;
        cast.says = done.unwrap_or_else(|error| format!("That failed: {error}"));
        true
    }

    /// Edits the route over and over, each time only when the edit before is served.
    async fn edit(&self) -> io::Result<String> {
        for number in 1..=EDITS {
            let before = self.generation().await?;
            let edits = {
                let mut cast = self.cast();
                cast.edits += 1;
                cast.says = format!("Edit {number} of {EDITS} of route default/edited: each is served before the next is made.");
                cast.edits
            };
            self.folder.edit(edits)?;
            let since = Instant::now();
            while self.generation().await? <= before {
                if since.elapsed() > PATIENCE {
                    return Err(io::Error::other("an edit is not served"));
                }
                sleep(LOOK).await;
            }
        }
        Ok(format!(
            "{EDITS} edits of route default/edited, each of them served. No connection ended for it."
        ))
    }

    /// Kills an endpoint as a node does that loses its power; what is in front of it hears of it a second later.
    async fn kill(&self) -> io::Result<String> {
        let killed = {
            let mut cast = self.cast();
            let running = cast.endpoints.iter_mut().filter(|endpoint| endpoint.process.is_some());
            let mut running: Vec<_> = running.collect();
            if running.len() < 2 {
                return Ok("That is the last endpoint: add one first.".to_owned());
            }
            let endpoint = running.remove(0);
            endpoint.process = None; // dropped: killed
            endpoint.name.clone()
        };
        sleep(Duration::from_secs(1)).await;
        self.folder.remove_endpoint(&killed)?;
        Ok(format!(
            "{killed} was killed. Its clients were told 1012 at once, and came back to another endpoint."
        ))
    }

    async fn add(&self) -> io::Result<String> {
        if self
            .cast()
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.process.is_some())
            .count()
            >= MAX_ENDPOINTS
        {
            return Ok(format!("{MAX_ENDPOINTS} endpoints are enough for a demo."));
        }
        let name = self.start_endpoint(free_port()?).await?;
        Ok(format!(
            "{name} is there. New connections go to it; none that was open has moved."
        ))
    }

    /// Replaces Holdfast as a rollout does: the next one serves new connections while the old one drains. The live view stays
    /// with the old one for as long as there is something to see.
    async fn drain(&self) -> io::Result<String> {
        let new = self.start_holdfast().await?;
        let old = {
            let mut cast = self.cast();
            cast.says = format!("A new Holdfast has begun; the old one ends its connections over {WINDOW:?}, by 1012.");
            let at = cast.holdfasts.len().saturating_sub(2);
            cast.holdfasts.get(at).map(|holdfast| holdfast.live)
        };
        let Some(old) = old else {
            return Ok("Nothing drains.".to_owned());
        };
        live::drain(old).await?;
        let since = Instant::now();
        while live::get(old, "/drain").await?["stage"] != "drained" && since.elapsed() < PATIENCE + WINDOW {
            sleep(5 * LOOK).await;
        }
        self.live.lead_to(new);
        let mut process = self.cast().holdfasts.remove(0).process;
        tokio::task::spawn_blocking(move || process.end()).await?;
        Ok(
            "The old Holdfast has drained and is gone. Each client was told 1012, at its turn, and came back to the new one."
                .to_owned(),
        )
    }

    async fn start_endpoint(&self, port: u16) -> io::Result<String> {
        TcpListener::bind(local(port)).map_err(|error| taken(port, &error))?;
        let name = format!("echo-{port}");
        let mut command = Command::new(&self.program);
        command.args(["echo", "--quiet", "--listen", &local(port).to_string(), "--name", &name]);
        let mut process = Process::start(command)?;
        process.listens(port).await?;
        self.folder.add_endpoint(&name, port)?;
        self.cast().endpoints.push(Endpoint {
            name: name.clone(),
            port,
            process: Some(process),
        });
        Ok(name)
    }

    /// Starts one that new connections are led to, and returns the port of its live listener.
    async fn start_holdfast(&self) -> io::Result<u16> {
        let [http, live, admin] = [free_port()?, free_port()?, free_port()?];
        let mut command = Command::new(&self.program);
        command.arg("--manifests").arg(self.folder.path());
        for (flag, port) in [("--http", http), ("--live", live), ("--admin", admin)] {
            command.args([flag, &local(port).to_string()]);
        }
        command.args(["--drain-delay", "0s", "--drain-window", &format!("{}s", WINDOW.as_secs())]);
        let mut process = Process::start(command)?;
        process.listens(http).await?;
        process.listens(live).await?;
        while live::get(live, "/routes?limit=1").await?["generation"] == 0 {
            sleep(LOOK).await;
        }
        self.cast().holdfasts.push(Holdfast { process, live });
        self.http.lead_to(http);
        Ok(live)
    }

    /// Of the table that is served.
    async fn generation(&self) -> io::Result<u64> {
        let routes = live::get(self.live(), "/routes?limit=1").await?;
        routes["generation"].as_u64().ok_or_else(|| io::Error::other("no generation"))
    }

    fn cast(&self) -> MutexGuard<'_, Cast> {
        self.cast.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A child, in a process group of its own: an interrupt from the terminal reaches the demo alone, which ends it in order.
/// Dropping it kills it.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn start(mut command: Command) -> io::Result<Self> {
        let program = command.get_program().to_owned();
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLDFAST_")) {
            command.env_remove(name);
        }
        let child = command.env_remove("KUBECONFIG").stdin(Stdio::null()).process_group(0).spawn();
        child
            .map(Self)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    /// Waits until it listens.
    async fn listens(&mut self, port: u16) -> io::Result<()> {
        loop {
            if let Some(status) = self.ended() {
                return Err(io::Error::other(format!(
                    "what should listen on port {port} has ended: {status}"
                )));
            }
            if TcpStream::connect(local(port)).await.is_ok() {
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    /// Asks it to end, and kills it if it does not.
    fn end(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        for _ in 0..150 {
            if self.ended().is_some() {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill(); // an error: it has ended
        let _ = self.0.wait();
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(local(0))?.local_addr()?.port())
}

const EDITS: u32 = 100;

/// Of a drain.
const WINDOW: Duration = Duration::from_secs(6);

/// How long anything may take that should take no time.
const PATIENCE: Duration = Duration::from_secs(20);

const MAX_ENDPOINTS: usize = 8;
