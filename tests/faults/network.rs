//! A network of a test's own: this machine, another one, and a cable between them.

use std::{
    env, fs,
    future::Future,
    io::{self, Write},
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

/// This machine.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// The other one.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// Runs a test of this name inside a network of its own: in a process of its own, which is this program again.
pub fn in_a_network(name: &str, test: impl Future<Output = ()>) {
    if env::var_os(INSIDE).is_some() {
        run(&["ip", "link", "set", "lo", "up"]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(test);
    }
    let Some(rights) = RIGHTS.into_iter().find(|rights| can_make_one(rights)) else {
        assert!(
            env::var_os("CI").is_none_or(|ci| ci != "true"),
            "{name} needs the right to make networks, and iproute2"
        );
        // Past the test runner, which shows nothing of a test that does not fail.
        let _ = writeln!(
            io::stderr(),
            "SKIPPED {name}: it needs the right to make networks (root), and iproute2"
        );
        return;
    };
    let mut command = Command::new("unshare");
    command.args(rights).arg(env::current_exe().unwrap());
    let output = command
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

fn can_make_one(rights: &[&str]) -> bool {
    let probe = "ip link add veth0 type veth peer name veth1 && nsenter -t $$ -n true";
    let output = Command::new("unshare").args(rights).args(["sh", "-c", probe]).output();
    output.is_ok_and(|output| output.status.success())
}

/// Leaves this network with a handful of ports for outgoing connections to each address.
pub fn few_source_ports() {
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "60000 60007").unwrap();
}

/// Gives this machine one more address.
pub fn add_address(address: &str) {
    run(&["ip", "address", "add", &format!("{address}/32"), "dev", "lo"]);
}

/// The other machine: a network behind a cable, and what runs there.
pub struct Far {
    /// Keeps the network, and does nothing.
    keeper: Child,
    programs: Mutex<Vec<Child>>,
}

impl Far {
    pub fn start() -> Self {
        let keeper = Command::new("unshare").args(["-n", "sleep", "600"]).spawn().unwrap();
        let far = Self {
            keeper,
            programs: Mutex::default(),
        };
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let started = Instant::now();
        while fs::read_link(format!("/proc/{}/ns/net", far.pid())).unwrap() == own {
            assert!(started.elapsed() < Duration::from_secs(10), "no second network");
            thread::sleep(Duration::from_millis(5));
        }
        let pid = far.pid();
        run(&["ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1"]);
        run(&["ip", "link", "set", "veth1", "netns", &pid]);
        run(&["ip", "addr", "add", &format!("{NEAR}/24"), "dev", "veth0"]);
        run(&["ip", "link", "set", "veth0", "up"]);
        far.run(&["ip", "link", "set", "lo", "up"]);
        far.run(&["ip", "addr", "add", &format!("{FAR}/24"), "dev", "veth1"]);
        far.run(&["ip", "link", "set", "veth1", "up"]);
        far
    }

    /// Starts holdfast there.
    pub fn spawn(&self, args: &[&str]) {
        let mut command = self.command();
        command.arg(env!("CARGO_BIN_EXE_holdfast")).args(args);
        self.keep(command);
    }

    /// Sends a request from there, and waits for its answer for ever.
    pub fn ask(&self, to: Ipv4Addr, port: u16, request: &str) {
        let mut command = self.command();
        let script = format!("exec 3<>/dev/tcp/{to}/{port}; printf '{request}' >&3; cat <&3");
        command.args(["bash", "-c", &script]);
        self.keep(command);
    }

    /// From now on no packet arrives, in either direction, and nobody is told.
    pub fn vanish(&self) {
        let nobody = "02:00:00:00:00:99";
        let neighbour = |address: Ipv4Addr, device: &str| {
            [
                "ip",
                "neigh",
                "replace",
                &address.to_string(),
                "lladdr",
                nobody,
                "dev",
                device,
                "nud",
                "permanent",
            ]
            .map(str::to_owned)
        };
        let (near, far) = (neighbour(FAR, "veth0"), neighbour(NEAR, "veth1"));
        run(&near.each_ref().map(String::as_str));
        self.run(&far.each_ref().map(String::as_str));
    }

    /// The same with the cable.
    pub fn unplug(&self) {
        self.run(&["ip", "link", "set", "veth1", "down"]);
    }

    fn pid(&self) -> String {
        self.keeper.id().to_string()
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid(), "-n"]);
        command
    }

    fn run(&self, args: &[&str]) {
        let mut command = self.command();
        command.args(args);
        succeed(command);
    }

    fn keep(&self, mut command: Command) {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.programs.lock().unwrap().push(command.spawn().unwrap());
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let programs = self.programs.get_mut().unwrap();
        for child in programs.iter_mut().chain([&mut self.keeper]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn run(args: &[&str]) {
    let mut command = Command::new(args[0]);
    command.args(&args[1..]);
    succeed(command);
}

fn succeed(mut command: Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Set in the process that has the network.
const INSIDE: &str = "HOLDFAST_FAULTS_INSIDE";

/// How to get a network: as root, or as the root of a user namespace.
const RIGHTS: [&[&str]; 2] = [&["-n"], &["-r", "-n"]];
