//! One container: its process, started again as its policy says, its probes, its hooks, its end.

use std::{
    process::{ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::{api::core::v1 as core, jiff::Timestamp};
use kube::Client;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::Child,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    environment::{self, Environment, expanded},
    image::{self, Image},
    place::Place,
    probe, volumes,
};
use crate::network::inside;

/// A container of a pod that has a place.
pub struct Container {
    pub spec: core::Container,
    pub kind: Kind,
    restart: Restart,
    place: Arc<Place>,
    client: Client,
    state: watch::Sender<State>,
    /// Told of every change, for the pod's status.
    changed: watch::Sender<()>,
    /// The pod is to end: nothing is started again.
    ending: watch::Receiver<bool>,
    log: Log,
    environment: Mutex<Environment>,
}

/// What it is in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Runs to its end before the next is started.
    Init,
    /// An init container that stays while the others run.
    Sidecar,
    App,
}

/// When it is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restart {
    Always,
    OnFailure,
    Never,
}

/// How it is doing.
#[derive(Clone, Debug)]
pub struct State {
    pub run: Run,
    /// It runs, and its startup probe has succeeded, if it has one.
    pub started: bool,
    pub ready: bool,
    pub restarts: i32,
    /// How it ended the time before.
    pub last: Option<Ended>,
    /// It has ended and is not started again.
    pub finished: bool,
}

#[derive(Clone, Debug)]
pub enum Run {
    /// Not yet, or not again yet; why, in one of Kubernetes' words.
    Waiting(&'static str),
    Running {
        pid: u32,
        since: Timestamp,
    },
    Ended(Ended),
}

#[derive(Clone, Debug)]
pub struct Ended {
    pub code: i32,
    /// What has killed it.
    pub signal: Option<i32>,
    pub since: Timestamp,
    pub at: Timestamp,
}

/// What a container has said, of all its runs, and what the kubelet has to say of it.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Line>>>);

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    pub at: Timestamp,
    pub text: String,
    /// It is the kubelet's own.
    pub is_event: bool,
    /// In which of its runs.
    pub run: i32,
}

impl Container {
    /// One that has not been started.
    pub fn new(
        spec: core::Container,
        kind: Kind,
        place: &Arc<Place>,
        client: &Client,
        changed: &watch::Sender<()>,
        ending: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let of_pod = place.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        let restart = match (kind, of_pod) {
            (Kind::Sidecar, _) => Restart::Always,
            (_, Some("Never")) => Restart::Never,
            (Kind::Init, _) | (_, Some("OnFailure")) => Restart::OnFailure,
            (Kind::App, _) => Restart::Always,
        };
        Arc::new(Self {
            spec,
            kind,
            restart,
            place: Arc::clone(place),
            client: client.clone(),
            state: watch::Sender::new(State::new()),
            changed: changed.clone(),
            ending,
            log: Log::default(),
            environment: Mutex::default(),
        })
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Starts it again and again, until its policy says that it has finished.
    pub async fn run(self: Arc<Self>) {
        let mut delay = Duration::ZERO;
        while !*self.ending.borrow() {
            let mut child = match self.launch().await {
                Ok(child) => child,
                Err(reason) => {
                    self.change(|state| state.run = Run::Waiting(reason));
                    self.pause(BACK_OFF).await;
                    continue;
                }
            };
            let (began, since) = (Instant::now(), Timestamp::now());
            let pid = child.id().expect("nobody has waited for it");
            let reading = self.read(&mut child);
            self.change(|state| {
                state.run = Run::Running { pid, since };
                state.started = self.spec.startup_probe.is_none();
                state.ready = state.started && self.spec.readiness_probe.is_none();
            });
            let probing = probe::all(&self);
            let status = child.wait().await.expect("its end is told once");
            drop(probing);
            // What it said last. A grandchild may hold the pipe for ever.
            let _ = timeout(Duration::from_secs(1), reading.join_all()).await;
            if self.has_finished(status, since) {
                return;
            }
            delay = if began.elapsed() > FORGIVEN { Duration::ZERO } else { delay };
            self.pause(delay).await;
            delay = (delay * 2).clamp(BACK_OFF, MAX_BACK_OFF);
        }
        self.change(|state| state.finished = true);
    }

    /// Ends its process as a kubelet does: hook, SIGTERM when `turn` has come, SIGKILL at the end of the time, which is never less
    /// than [`LEAST_GRACE`] after SIGTERM. The deadline may come closer while it waits.
    pub async fn stop(&self, mut deadline: watch::Receiver<Instant>, turn: impl Future<Output = ()>) {
        if !self.is_running() {
            return;
        }
        let hook = self.spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        if let Some(hook) = hook {
            self.log.event("preStop begins");
            tokio::select! {
                done = probe::hook(hook, self) => match done {
                    Ok(()) => self.log.event("preStop has ended"),
                    Err(error) => self.log.event(&format!("preStop has failed: {error}")),
                },
                () = passed(deadline.clone()) => self.log.event("preStop took too long"),
            }
        }
        tokio::select! {
            () = turn => {}
            () = passed(deadline.clone()) => {}
        }
        self.log.event("SIGTERM");
        self.signal(Signal::TERM);
        let least = Instant::now() + LEAST_GRACE;
        if *deadline.borrow_and_update() < least {
            deadline = watch::Sender::new(least).subscribe();
        }
        tokio::select! {
            () = self.ended() => return,
            () = passed(deadline) => {}
        }
        if self.is_running() {
            self.log.event("SIGKILL: its time is over");
        }
        self.signal(Signal::KILL);
        self.ended().await;
    }

    /// Runs a command in it, and waits for its end.
    ///
    /// # Errors
    /// It does not run, or there is no such command.
    pub async fn exec(&self, command: &[String]) -> Result<Output, String> {
        let Run::Running { pid, .. } = self.state().run else {
            return Err("it does not run".to_owned());
        };
        let image = self.image().expect("it runs");
        let (user, group) = self.user(&image);
        let mut exec = inside(pid);
        exec.args(["-m", "-r", "--wd=/", "-S", &user.to_string(), "-G", &group.to_string(), "--"]);
        exec.args(command).env_clear().envs(self.environment.lock().unwrap().clone());
        exec.stdin(Stdio::null());
        exec.output().await.map_err(|error| error.to_string())
    }

    /// Sends its process a signal, if it runs.
    pub fn signal(&self, signal: Signal) {
        let state = self.state.borrow();
        if let Run::Running { pid, .. } = state.run {
            let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal);
        }
    }

    /// Waits until it does not run.
    pub async fn ended(&self) {
        let _ = self.state.subscribe().wait_for(|state| !state.run.is_running()).await;
    }

    /// Waits until it has started, as a sidecar whose next is waiting.
    pub async fn started(&self) {
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| state.run.is_running() && state.started)
            .await;
    }

    /// Waits until it has ended and is not started again. How it ended.
    pub async fn finished(&self) -> Option<Ended> {
        let mut state = self.state.subscribe();
        let finished = state.wait_for(|state| state.finished).await.expect("we hold its other end");
        match &finished.run {
            Run::Ended(ended) => Some(ended.clone()),
            _ => None,
        }
    }

    pub fn is_running(&self) -> bool {
        self.state.borrow().run.is_running()
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    pub fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
        self.changed.send_replace(());
    }

    fn image(&self) -> Option<Image> {
        image::find(self.spec.image.as_deref()?)
    }

    fn user(&self, image: &Image) -> (u32, u32) {
        let of_pod = self
            .place
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.security_context.clone())
            .unwrap_or_default();
        let own = self.spec.security_context.clone().unwrap_or_default();
        let id = |own: Option<i64>, of_pod: Option<i64>| own.or(of_pod).and_then(|id| u32::try_from(id).ok());
        (
            id(own.run_as_user, of_pod.run_as_user).unwrap_or(image.user),
            id(own.run_as_group, of_pod.run_as_group).unwrap_or(image.group),
        )
    }

    /// Starts its process, in a mount namespace of its own, in which there is what its image has and what it mounts.
    async fn launch(&self) -> Result<Child, &'static str> {
        let image = self.image().ok_or("ErrImagePull")?;
        let environment = environment::of(&self.spec, &self.place, &self.client).await;
        let environment = environment.map_err(|error| {
            self.log.event(&error);
            "CreateContainerConfigError"
        })?;
        let (user, group) = self.user(&image);
        let root = self.place.dir.join("roots").join(self.name());
        std::fs::create_dir_all(&root).unwrap();
        let words = |list: &Option<Vec<String>>| {
            list.iter()
                .flatten()
                .map(|word| expanded(word, &environment))
                .collect::<Vec<_>>()
        };
        let (command, args) = (words(&self.spec.command), words(&self.spec.args));
        let command = if command.is_empty() {
            image.entrypoint.clone()
        } else {
            command
        };
        let mut launch = inside(self.place.network());
        launch
            .args(["unshare", "-m", "sh", "-ec", &self.mounts(&image), "sh"])
            .arg(&root);
        launch.args([
            "setpriv",
            "--no-new-privs",
            "chroot",
            &format!("--userspec={user}:{group}"),
            "--groups=",
        ]);
        launch.arg(&root).args(command).args(args);
        launch.env_clear().envs(environment.clone());
        *self.environment.lock().unwrap() = environment;
        launch.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        launch.spawn().map_err(|error| {
            self.log.event(&error.to_string());
            "CreateContainerError"
        })
    }

    /// A shell script that makes the directory $1 the container's root, and goes on with the command after it.
    fn mounts(&self, image: &Image) -> String {
        let mut script = ROOT.to_owned();
        let etc = self.place.dir.join("etc");
        script.push_str(&format!("cp {}/* etc\n", quoted(&etc.display().to_string())));
        for (program, path) in &image.programs {
            let at = path.trim_start_matches('/');
            script.push_str(&bind(&program.display().to_string(), at, true, true));
        }
        for mount in self.spec.volume_mounts.iter().flatten() {
            let mut from = volumes::directory(&self.place, &mount.name);
            if let Some(path) = &mount.sub_path {
                from = from.join(path);
            }
            let at = mount.mount_path.trim_start_matches('/');
            script.push_str(&bind(
                &from.display().to_string(),
                at,
                from.is_file(),
                mount.read_only == Some(true),
            ));
        }
        let security = self.spec.security_context.as_ref();
        if security.and_then(|security| security.read_only_root_filesystem) == Some(true) {
            script.push_str("mount -o remount,bind,ro .\n");
        }
        script + "shift\nexec \"$@\"\n"
    }

    fn read(&self, child: &mut Child) -> JoinSet<()> {
        let run = self.state().restarts;
        let mut reading = JoinSet::new();
        reading.spawn(self.log.clone().read(child.stdout.take().unwrap(), run));
        reading.spawn(self.log.clone().read(child.stderr.take().unwrap(), run));
        reading
    }

    /// Writes down how it ended, and whether that was all.
    fn has_finished(&self, status: ExitStatus, since: Timestamp) -> bool {
        use std::os::unix::process::ExitStatusExt as _;
        let signal = status.signal();
        let ended = Ended {
            code: status.code().unwrap_or_else(|| 128 + signal.unwrap_or_default()),
            signal,
            since,
            at: Timestamp::now(),
        };
        self.log.event(&format!("has ended: {status}"));
        let again = match self.restart {
            Restart::Always => true,
            Restart::OnFailure => ended.code != 0,
            Restart::Never => false,
        };
        let finished = !again || self.is_ending();
        self.change(|state| {
            state.run = Run::Ended(ended.clone());
            (state.started, state.ready, state.finished) = (false, false, finished);
            if !finished {
                state.last = Some(ended);
                state.restarts += 1;
            }
        });
        finished
    }

    /// Waits, unless the pod is to end.
    async fn pause(&self, delay: Duration) {
        let mut ending = self.ending.clone();
        tokio::select! {
            () = sleep(delay) => {}
            _ = ending.wait_for(|ending| *ending) => {}
        }
    }
}

impl State {
    fn new() -> Self {
        Self {
            run: Run::Waiting("ContainerCreating"),
            started: false,
            ready: false,
            restarts: 0,
            last: None,
            finished: false,
        }
    }
}

impl Run {
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

impl Log {
    /// Everything so far.
    pub fn lines(&self) -> Vec<Line> {
        self.0.lock().unwrap().clone()
    }

    /// When the kubelet first said something that begins with this.
    pub fn event_at(&self, text: &str) -> Option<Timestamp> {
        let lines = self.0.lock().unwrap();
        let mut events = lines.iter().filter(|line| line.is_event && line.text.starts_with(text));
        events.next().map(|line| line.at)
    }

    /// Writes down what the kubelet has to say.
    pub fn event(&self, text: &str) {
        self.push(text.to_owned(), true, 0);
    }

    async fn read(self, from: impl AsyncRead + Unpin, run: i32) {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.push(line, false, run);
        }
    }

    fn push(&self, text: String, is_event: bool, run: i32) {
        let at = Timestamp::now();
        self.0.lock().unwrap().push(Line { at, text, is_event, run });
    }
}

/// Waits for a moment that may come closer.
async fn passed(mut deadline: watch::Receiver<Instant>) {
    loop {
        let at = *deadline.borrow_and_update();
        // A sender that is gone changes nothing any more.
        match timeout_at(at, deadline.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return tokio::time::sleep_until(at).await,
            Err(_) => return,
        }
    }
}

/// A line of a shell script that shows `from` at `at`, below the directory that the script is in.
fn bind(from: &str, at: &str, is_file: bool, read_only: bool) -> String {
    let (from, at) = (quoted(from), quoted(at));
    let make = match is_file {
        true => format!("mkdir -p \"$(dirname {at})\"\ntouch {at}\n"),
        false => format!("mkdir -p {at}\n"),
    };
    let read_only = if read_only {
        format!("mount -o remount,bind,ro {at}\n")
    } else {
        String::new()
    };
    format!("{make}mount --bind {from} {at}\n{read_only}")
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What there is in every image that has a C library, and nothing else.
const ROOT: &str = r#"mount -t tmpfs -o mode=755,size=16m tmpfs "$1"
cd "$1"
mkdir -p proc dev etc/ssl/certs usr/lib usr/lib64 usr/local/bin
for dir in lib lib64; do
  if [ -L "/$dir" ]; then cp -P "/$dir" .; elif [ -d "/$dir" ]; then mkdir "$dir" && mount -o bind,ro "/$dir" "$dir"; fi
done
for dir in usr/lib usr/lib64; do
  [ ! -d "/$dir" ] || mount -o bind,ro "/$dir" "$dir"
done
mount --rbind /proc proc
mount --rbind /dev dev
"#;
/// The shortest time between SIGTERM and SIGKILL.
pub const LEAST_GRACE: Duration = Duration::from_secs(2);
/// Before a container that has ended is started a second time; it doubles from there. A kubelet begins with 10 s.
const BACK_OFF: Duration = Duration::from_secs(1);
const MAX_BACK_OFF: Duration = Duration::from_secs(300);
/// So long without an end, and the ends before are forgotten.
const FORGIVEN: Duration = Duration::from_secs(600);
