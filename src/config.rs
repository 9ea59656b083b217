//! Every flag and environment name, its default and its help. Parsed once, in `main`; past it a value cannot be wrong.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, builder::ArgPredicate};
use ipnet::IpNet;

use crate::{
    cli,
    control::{Access, Cluster, InvalidTiming, PolicySource, Source, Timing},
    proxy::KeepAlive,
    routing::ObjectName,
    telemetry::LogFormat,
};

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, about = ABOUT, long_about = LONG_ABOUT, after_help = AFTER_HELP)]
#[command(
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: Serve,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate manifests: conditions, effective values, the table. Exit 1 if one is rejected. Without a path: check the installation.
    Check(cli::check::Args),
    /// Which rule matches a URL and why, which endpoints would be tried, why the others lost.
    Why(cli::why::Args),
    /// A WebSocket client: handshake, numbered echoes, round trips, close code.
    Ping(cli::ping::Args),
    /// An echo endpoint, for demos and tests.
    Echo(cli::echo::Args),
    /// Have the Holdfast in this pod, or one that is named, end its tunnels in order, and stay until it is stopped.
    Drain(cli::drain::Args),
    /// Which connections are open, in groups or one by one: how old, how busy, how far away.
    Connections(cli::connections::Args),
    /// Who ended which connection lately, why, and what each side saw of it: the answer to every "1006?".
    Ends(cli::ends::Args),
    /// What a reason, cause or condition means and what to do.
    Explain(cli::explain::Args),
    /// Print the CustomResourceDefinition.
    Crd(cli::crd::Args),
    /// Print a completion script for a shell.
    Completion(cli::completion::Args),
    /// Write docs/reference.md.
    #[command(hide = true)]
    Reference(cli::reference::Args),
    /// Print the version.
    Version(cli::version::Args),
}

/// What serving is told.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// Serve WebSocketRoute, Service and EndpointSlice files below this folder, and follow their edits
    #[arg(long, value_name = "DIR", env = "HOLDFAST_MANIFESTS", help_heading = ROUTES)]
    pub manifests: Option<PathBuf>,
    /// Serve this one endpoint on every host and path; no file at all
    #[arg(long, value_name = "HOST:PORT", env = "HOLDFAST_TO", help_heading = ROUTES)]
    pub to: Option<String>,
    /// With --to: treat connections by the policies of this route, as a sidecar does. They are read from --manifests, and from
    /// the cluster where there is one, whose word counts once it has been heard
    #[arg(long, value_name = "NAMESPACE/NAME", env = "HOLDFAST_ROUTE", value_parser = object_name, requires = "to", help_heading = ROUTES)]
    pub route: Option<ObjectName>,
    /// Serve the objects of the cluster that this file gives access to [default: the files that KUBECONFIG names; without,
    /// in a pod, the cluster that it runs in]
    #[arg(long, value_name = "FILE", help_heading = ROUTES)]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", help_heading = ROUTES)]
    pub context: Option<String>,
    /// Look at the objects of this namespace only; repeatable [default: all namespaces]
    #[arg(long = "watch-namespace", value_name = "NAME", env = "HOLDFAST_WATCH_NAMESPACE", value_delimiter = ',', help_heading = ROUTES)]
    pub watch_namespaces: Vec<String>,
    /// Serve routes of this class; objects without a className belong to every class
    #[arg(long, value_name = "NAME", env = "HOLDFAST_CLASS", default_value = "holdfast", help_heading = ROUTES)]
    pub class: String,
    /// What holds for routes that say nothing: policies as in the spec of a route (timeouts, heartbeat, ...), at the top of
    /// the file; its edits are followed
    #[arg(long, value_name = "FILE", env = "HOLDFAST_DEFAULTS", help_heading = ROUTES)]
    pub defaults: Option<PathBuf>,
    /// Who may add rules to a hostname: only the namespace of the oldest route that names it, or every namespace
    #[arg(long, value_name = "WHO", env = "HOLDFAST_HOST_OWNERSHIP", default_value = "namespace", ignore_case = true, help_heading = ROUTES)]
    pub host_ownership: HostOwnership,

    /// Where clients connect; port 0 takes a free one. With --route [::]:4480, for 8080 may be the application's
    #[arg(long, value_name = "ADDRESS", env = "HOLDFAST_HTTP", default_value = "[::]:8080", default_value_if("route", ArgPredicate::IsPresent, "[::]:4480"), help_heading = LISTENERS)]
    pub http: SocketAddr,
    /// Where clients connect with TLS; the certificates are those that routes name [default: nowhere]
    #[arg(long, value_name = "ADDRESS", env = "HOLDFAST_HTTPS", help_heading = LISTENERS)]
    pub https: Option<SocketAddr>,
    /// The Secret whose certificate is shown for hosts that have none of their own, and to clients that name no host
    #[arg(long, value_name = "NAMESPACE/NAME", env = "HOLDFAST_DEFAULT_CERTIFICATE", value_parser = object_name, help_heading = LISTENERS)]
    pub default_certificate: Option<ObjectName>,
    /// The Secret with the keys of TLS session tickets, so that a client resumes its session with any replica; the leader fills
    /// and rotates it [default: each process has keys of its own]
    #[arg(long, value_name = "NAMESPACE/NAME", env = "HOLDFAST_TICKET_SECRET", value_parser = object_name, conflicts_with = "to", help_heading = LISTENERS)]
    pub ticket_secret: Option<ObjectName>,
    /// Send clients that ask without TLS for a host that has it to the same address with TLS, by 308 instead of 421
    #[arg(long, env = "HOLDFAST_HTTPS_REDIRECT", help_heading = LISTENERS)]
    pub https_redirect: bool,
    /// The folder below which routes may serve files (fallback Static) [default: none]
    #[arg(long, value_name = "DIR", env = "HOLDFAST_STATIC_ROOT", value_parser = folder, help_heading = LISTENERS)]
    pub static_root: Option<PathBuf>,
    /// Where /livez, /readyz and /metrics are served
    #[arg(long, value_name = "ADDRESS", env = "HOLDFAST_ADMIN", default_value = "[::]:9477", help_heading = LISTENERS)]
    pub admin: SocketAddr,
    /// Where this machine alone is told what this process does, and may have it drain; a loopback address [default:
    /// 127.0.0.1:9478, if it is free]
    #[arg(long, value_name = "ADDRESS", env = "HOLDFAST_LIVE", value_parser = loopback, help_heading = LISTENERS)]
    pub live: Option<SocketAddr>,
    /// Load balancers whose word on the client's address is taken (X-Forwarded-For, PROXY protocol); repeatable
    #[arg(long, value_name = "CIDR", env = "HOLDFAST_TRUSTED_PROXIES", value_delimiter = ',', value_parser = network, help_heading = LISTENERS)]
    pub trusted_proxies: Vec<IpNet>,
    /// Expect a PROXY protocol header, version 1 or 2, on every connection
    #[arg(long, env = "HOLDFAST_PROXY_PROTOCOL", help_heading = LISTENERS)]
    pub proxy_protocol: bool,

    /// How long others wait for the leader of the class, which writes the status of routes, before one of them takes over
    #[arg(long, value_name = "DURATION", env = "HOLDFAST_LEASE_DURATION", default_value = "15s", value_parser = duration, help_heading = CLUSTER)]
    pub lease_duration: Duration,
    /// When a leader that cannot renew its Lease stops to lead
    #[arg(long, value_name = "DURATION", env = "HOLDFAST_LEASE_RENEW_DEADLINE", default_value = "10s", value_parser = duration, help_heading = CLUSTER)]
    pub lease_renew_deadline: Duration,
    /// How often the Lease is renewed, or looked at
    #[arg(long, value_name = "DURATION", env = "HOLDFAST_LEASE_RETRY", default_value = "2s", value_parser = duration, help_heading = CLUSTER)]
    pub lease_retry: Duration,
    /// How often everything is listed again although nothing seems wrong, give or take a third: shows what a restored
    /// cluster does not tell
    #[arg(long, value_name = "DURATION", env = "HOLDFAST_RELIST_INTERVAL", default_value = "45m", value_parser = relist, help_heading = CLUSTER)]
    pub relist_interval: Duration,

    /// Threads that serve connections [default: one per core that this process may use]
    #[arg(long, value_name = "N", env = "HOLDFAST_WORKERS", value_parser = clap::value_parser!(u16).range(1..=256), help_heading = LIMITS)]
    pub workers: Option<u16>,
    /// Connections that are served at once; more are refused with 503 [default: what file descriptors and memory allow]
    #[arg(long, value_name = "N", env = "HOLDFAST_MAX_CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..), help_heading = LIMITS)]
    pub max_connections: Option<u32>,
    /// Bytes that the process may queue for sides that accept nothing; beyond, the longest stalled tunnel ends
    /// [default: a quarter of the memory limit, 256 MiB without one]
    #[arg(long, value_name = "BYTES", env = "HOLDFAST_QUEUE_MEMORY", value_parser = bytes, help_heading = LIMITS)]
    pub queue_memory: Option<u64>,
    /// Kernel receive buffer of each socket: with twice the sockets of tunnels, what stalled ones can cost the pod
    #[arg(long, value_name = "BYTES", env = "HOLDFAST_RECEIVE_BUFFER", default_value = "256KiB", value_parser = receive_buffer, help_heading = LIMITS)]
    pub receive_buffer: u32,
    /// TCP keepalive towards clients: idle time, interval, probes
    #[arg(long, value_name = "IDLE,INTERVAL,PROBES", env = "HOLDFAST_CLIENT_KEEPALIVE", default_value = "45s,15s,3", value_parser = keepalive, help_heading = LIMITS)]
    pub client_keepalive: KeepAlive,
    /// TCP keepalive towards endpoints: idle time, interval, probes
    #[arg(long, value_name = "IDLE,INTERVAL,PROBES", env = "HOLDFAST_ENDPOINT_KEEPALIVE", default_value = "15s,5s,3", value_parser = keepalive, help_heading = LIMITS)]
    pub endpoint_keepalive: KeepAlive,
    /// Ends of tunnels that are remembered for `holdfast ends`, and as many refusals; each takes about 300 bytes. 0: none
    #[arg(long, value_name = "N", env = "HOLDFAST_RECENT_ENDS", default_value = "10000", value_parser = clap::value_parser!(u32).range(..=1_000_000), help_heading = LIMITS)]
    pub recent_ends: u32,

    /// After SIGTERM, how long new connections are still served while load balancers notice [default: 15s in a cluster,
    /// else 0s]
    #[arg(long, value_name = "DURATION", env = "HOLDFAST_DRAIN_DELAY", value_parser = duration, help_heading = SHUTDOWN)]
    pub drain_delay: Option<Duration>,
    /// Then, the time over which tunnels are ended [default: 240s in a cluster, else 0s]
    #[arg(long, value_name = "DURATION", env = "HOLDFAST_DRAIN_WINDOW", value_parser = duration, help_heading = SHUTDOWN)]
    pub drain_window: Option<Duration>,
    /// The pod's terminationGracePeriodSeconds, to be checked against the two above
    #[arg(long, value_name = "DURATION", env = "HOLDFAST_GRACE_PERIOD", value_parser = duration, help_heading = SHUTDOWN)]
    pub grace_period: Option<Duration>,

    /// How access lines and diagnostics are written
    #[arg(long, value_name = "FORMAT", env = "HOLDFAST_LOG_FORMAT", default_value = "text", help_heading = OUTPUT)]
    pub log_format: LogFormat,
    /// Which diagnostics are written: error, warn, info, debug, trace, or a filter such as holdfast=debug,warn
    #[arg(long, value_name = "LEVEL", env = "HOLDFAST_LOG_LEVEL", default_value = "info", help_heading = OUTPUT)]
    pub log_level: String,
    /// Whether each connection's open, end and refusal is written to stdout
    #[arg(long, value_name = "WHEN", env = "HOLDFAST_ACCESS_LOG", default_value = "on", help_heading = OUTPUT)]
    pub access_log: Switch,
    /// Whether metrics are kept for each endpoint
    #[arg(long, value_name = "WHEN", env = "HOLDFAST_ENDPOINT_METRICS", default_value = "on", help_heading = OUTPUT)]
    pub endpoint_metrics: Switch,
    /// When output is coloured
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true, help_heading = OUTPUT)]
    pub color: cli::output::ColorChoice,

    /// This pod's name, for records and Leases
    #[arg(long, env = "POD_NAME", hide = true, action = ArgAction::Set)]
    pub pod_name: Option<String>,
    /// This pod's namespace, where its Leases are
    #[arg(long, env = "POD_NAMESPACE", hide = true, action = ArgAction::Set)]
    pub pod_namespace: Option<String>,
    /// This pod's uid, which owns its Lease
    #[arg(long, env = "POD_UID", hide = true, action = ArgAction::Set)]
    pub pod_uid: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HostOwnership {
    /// The namespace of the oldest route that names a hostname owns it.
    Namespace,
    /// Routes of every namespace may share a hostname.
    Shared,
}

/// What is wrong with a configuration whose parts are each fine.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error(
        "no routes: name a folder with --manifests DIR, one endpoint with --to HOST:PORT, or a cluster with --kubeconfig FILE \
         or KUBECONFIG; in a pod, the cluster is found by itself"
    )]
    NoSource,
    #[error(
        "--manifests, --to and --kubeconfig or --context exclude each other, unless --route NAMESPACE/NAME says whose policies hold \
         for the endpoint"
    )]
    TwoSources,
    #[error(
        "--route needs to know where the route is: name a file with --manifests, or a cluster with --kubeconfig FILE or KUBECONFIG"
    )]
    NoPolicies,
    #[error(transparent)]
    Timing(#[from] InvalidTiming),
    #[error(
        "--grace-period {grace:?} is too short: --drain-delay {delay:?} + --drain-window {window:?} + {CLOSING:?} need {needed:?}"
    )]
    GraceTooShort {
        grace: Duration,
        delay: Duration,
        window: Duration,
        needed: Duration,
    },
}

impl Serve {
    /// Where routes come from.
    ///
    /// # Errors
    /// When nothing says so, or the times of the Leases do not go together.
    pub fn source(&self) -> Result<Source, ConfigError> {
        let named = [
            self.manifests.is_some(),
            self.to.is_some(),
            self.kubeconfig.is_some() || self.context.is_some(),
        ];
        if named.into_iter().filter(|is_named| *is_named).count() > 1 && self.route.is_none() {
            return Err(ConfigError::TwoSources);
        }
        match (&self.manifests, &self.to) {
            (Some(folder), None) => Ok(Source::Folder(folder.clone())),
            (_, Some(target)) => Ok(Source::Endpoint {
                target: target.clone(),
                policies: self.policies()?.map(Box::new),
            }),
            (None, None) => Ok(Source::Cluster(Box::new(self.cluster()?))),
        }
    }

    /// Whose policies hold for the one endpoint.
    fn policies(&self) -> Result<Option<PolicySource>, ConfigError> {
        let Some(route) = self.route.clone() else {
            return Ok(None);
        };
        let access = self.access();
        if access.is_none() && self.manifests.is_none() {
            return Err(ConfigError::NoPolicies);
        }
        Ok(Some(PolicySource {
            route,
            file: self.manifests.clone(),
            access,
            relist: self.relist_interval,
        }))
    }

    fn access(&self) -> Option<Access> {
        let named = self.kubeconfig.clone().map(|file| Access::Kubeconfig {
            file: Some(file),
            context: self.context.clone(),
        });
        named.or_else(|| Access::of_environment(self.context.as_deref()))
    }

    fn cluster(&self) -> Result<Cluster, ConfigError> {
        Ok(Cluster {
            access: self.access().ok_or(ConfigError::NoSource)?,
            namespaces: self.watch_namespaces.clone(),
            relist: self.relist_interval,
            timing: Timing::new(self.lease_duration, self.lease_renew_deadline, self.lease_retry)?,
            replica: self.replica(),
            lease_namespace: self.pod_namespace.clone(),
            pod_uid: self.pod_uid.clone(),
        })
    }

    /// This replica's name.
    pub fn replica(&self) -> String {
        self.pod_name.clone().unwrap_or_else(process_name)
    }

    /// Delay and window of a drain.
    ///
    /// # Errors
    /// When the pod would be killed before its end.
    pub fn drain(&self) -> Result<(Duration, Duration), ConfigError> {
        // Without a cluster no load balancer has to notice.
        let is_cluster = self.manifests.is_none() && self.to.is_none();
        let (delay, window) = if is_cluster { CLUSTER_DRAIN } else { Default::default() };
        let delay = self.drain_delay.unwrap_or(delay);
        let window = self.drain_window.unwrap_or(window);
        let needed = delay + window + CLOSING;
        match self.grace_period {
            Some(grace) if grace < needed => Err(ConfigError::GraceTooShort {
                grace,
                delay,
                window,
                needed,
            }),
            _ => Ok((delay, window)),
        }
    }
}

/// A network, or one address of it.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "write it as 127.0.0.1:9478 or [::1]:9478".to_owned())?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err("it names clients and takes orders, so it must be a loopback address".to_owned()),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || {
        text.parse()
            .ok()
            .map(|address: std::net::IpAddr| address.to_canonical().into())
    };
    let network: IpNet = text
        .parse()
        .ok()
        .or_else(address)
        .ok_or("not a network such as 10.0.0.0/8, and not an address")?;
    Ok(network.trunc())
}

/// A duration as Gateway API writes it (GEP-2257): `1h30m`, `250ms`.
fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<crate::api::Duration>()
        .map(Duration::from)
        .map_err(|error| error.to_string())
}

/// Namespace and name of an object.
fn object_name(text: &str) -> Result<ObjectName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => Ok(ObjectName {
            namespace: namespace.into(),
            name: name.into(),
        }),
        _ => Err("write the Secret's namespace and name, such as chat/chat-tls".to_owned()),
    }
}

/// A folder that is there.
fn folder(text: &str) -> Result<PathBuf, String> {
    match std::fs::metadata(text) {
        Ok(metadata) if metadata.is_dir() => Ok(text.into()),
        Ok(_) => Err("not a folder".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Lists that come faster than this would only be a load on the API server.
fn relist(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        interval if interval >= LEAST_RELIST => Ok(interval),
        _ => Err(format!("less than {LEAST_RELIST:?}")),
    }
}

/// What sets this process apart from others where there is no pod.
fn process_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().to_ascii_lowercase();
    let host = if host.is_empty() { "holdfast" } else { &host };
    format!("{host}-{}", std::process::id())
}

fn keepalive(text: &str) -> Result<KeepAlive, String> {
    let parts: Vec<&str> = text.split(',').collect();
    let [idle, interval, probes] = parts[..] else {
        return Err("write idle time, interval and probes, such as 15s,5s,3".to_owned());
    };
    let whole = |text| match duration(text)? {
        seconds if seconds.subsec_nanos() == 0 && (1..=32_767).contains(&seconds.as_secs()) => Ok(seconds),
        _ => Err(format!("{text} is not a number of whole seconds from 1s to 32767s")),
    };
    match probes.parse() {
        Ok(probes @ 1..=127) => Ok(KeepAlive {
            idle: whole(idle)?,
            interval: whole(interval)?,
            probes,
        }),
        _ => Err(format!("{probes} is not a number of probes from 1 to 127")),
    }
}

/// A number of bytes, perhaps in KiB, MiB or GiB.
fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.find(|character: char| !character.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let factor = match unit {
        "" => 1,
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        "GiB" | "Gi" => 1 << 30,
        _ => return Err(format!("{unit} is not a unit: write KiB, MiB or GiB")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "not a number of bytes such as 256MiB".to_owned())?;
    number
        .checked_mul(factor)
        .ok_or_else(|| "more bytes than there are".to_owned())
}

fn receive_buffer(text: &str) -> Result<u32, String> {
    match u32::try_from(bytes(text)?) {
        Ok(size @ 4096..=67_108_864) => Ok(size),
        _ => Err("not between 4KiB and 64MiB".to_owned()),
    }
}

/// What a shutdown may take beyond its delay and its window: the longest closing handshake that is usual, and slack.
pub const CLOSING: Duration = Duration::from_secs(25);

/// Delay and window of a drain in a cluster: its load balancers and kube-proxy need the one, its clients the other.
const CLUSTER_DRAIN: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(240));

const LEAST_RELIST: Duration = Duration::from_secs(1);

const ABOUT: &str = "The WebSocket ingress that never drops a connection on a config change";

const LONG_ABOUT: &str = "The WebSocket ingress that never drops a connection on a config change, and never ends one without \
saying why.\n\nWithout a subcommand it serves: the routes of the cluster that it runs in or that a kubeconfig gives access to, those of \
a folder of manifests (--manifests), or one endpoint (--to).";

const AFTER_HELP: &str = "Signals: TERM and INT end tunnels with Close frames and exit (INT at once for a folder), a second one \
exits now; QUIT exits now;\nHUP reads files again and never ends anything; USR1 writes a summary to the log.\n\
Exit codes: 0 done; 1 the answer is no, or serving failed; 2 usage or configuration, nothing was bound; 130 on a second INT.";

const ROUTES: &str = "Routes";
const CLUSTER: &str = "Cluster";
const LISTENERS: &str = "Listeners";
const LIMITS: &str = "Limits";
const SHUTDOWN: &str = "Shutdown";
const OUTPUT: &str = "Output";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_values_are_answered_with_what_to_write() {
        for (args, wanted) in [
            (&["--http", "8080"][..], "--http"),
            (&["--trusted-proxies", "10.0.0.0/33"], "--trusted-proxies"),
            (&["--endpoint-keepalive", "15s"], "idle time, interval and probes"),
            (&["--queue-memory", "5MB"], "KiB, MiB or GiB"),
            (&["--drain-delay", "15"], "--drain-delay"),
            (&["--workers", "0"], "--workers"),
            (&["--default-certificate", "chat"], "such as chat/chat-tls"),
            (&["--static-root", "/dev/null"], "not a folder"),
            (&["--route", "a/b"], "--to"),
            (&["--live", "10.0.0.1:9478"], "a loopback address"),
        ] {
            let error = Cli::try_parse_from(["holdfast"].iter().chain(args)).unwrap_err();
            assert!(error.to_string().contains(wanted), "{args:?}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn routes_come_from_one_place_except_for_a_sidecar() {
        let source = |args: &[&str]| {
            let serve = Cli::try_parse_from(["holdfast"].iter().chain(args)).unwrap().serve;
            (serve.http.port(), serve.source())
        };
        for args in [
            &["--to", "a:1", "--manifests", "b"][..],
            &["--to", "a:1", "--kubeconfig", "c"],
            &["--manifests", "b", "--context", "c"],
        ] {
            assert_eq!(source(args).1, Err(ConfigError::TwoSources), "{args:?}");
        }
        let sidecar = ["--to", "a:1", "--route", "chat/chat", "--manifests", "b", "--kubeconfig", "c"];
        let (
            port,
            Ok(Source::Endpoint {
                policies: Some(policies),
                ..
            }),
        ) = source(&sidecar)
        else {
            panic!("no sidecar");
        };
        assert_eq!((port, policies.file), (4480, Some(PathBuf::from("b"))));
        assert!(policies.access.is_some());
    }

    #[test]
    fn a_grace_period_that_is_too_short_is_refused() {
        let serve = |args: &[&str]| {
            Cli::try_parse_from(["holdfast", "--to", "a:1"].iter().chain(args))
                .unwrap()
                .serve
        };
        let args = ["--drain-delay=15s", "--drain-window=240s", "--grace-period"];
        assert!(serve(&[&args[..], &["279s"]].concat()).drain().is_err());
        assert!(serve(&[&args[..], &["280s"]].concat()).drain().is_ok());
    }
}
