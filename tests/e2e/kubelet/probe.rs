//! Probes and hooks: questions to a container by HTTP, by a connection, or by a command in it.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{ExecAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use super::container::Container;

/// Asks all that is asked of a container while it runs: until what is returned is dropped.
pub fn all(container: &Arc<Container>) -> JoinSet<()> {
    let mut probing = JoinSet::new();
    probing.spawn(startup_then_others(Arc::clone(container)));
    probing
}

/// Runs a hook to its end.
///
/// # Errors
/// Nobody answers, or not with success.
pub async fn hook(hook: &LifecycleHandler, container: &Container) -> Result<(), String> {
    ask(
        hook.http_get.as_ref(),
        hook.tcp_socket.as_ref(),
        hook.exec.as_ref(),
        container,
    )
    .await
}

async fn startup_then_others(container: Arc<Container>) {
    if let Some(probe) = &container.spec.startup_probe {
        repeat(probe, &container, "startup", |good| good).await;
        container.change(|state| {
            state.started = true;
            state.ready = container.spec.readiness_probe.is_none();
        });
    }
    let readiness = async {
        let Some(probe) = &container.spec.readiness_probe else {
            return;
        };
        loop {
            // Each time until it changes.
            let good = repeat(probe, &container, "readiness", |good| good != container.state().ready).await;
            container.change(|state| state.ready = good);
        }
    };
    let liveness = async {
        let Some(probe) = &container.spec.liveness_probe else { return };
        repeat(probe, &container, "liveness", |good| !good).await;
    };
    tokio::join!(readiness, liveness);
}

/// Asks again and again, until so many answers in a row are alike as the probe asks for and `enough` says that this is it. Of a
/// startup or liveness probe that has failed so often the container is ended, and started again as its policy says.
async fn repeat(probe: &Probe, container: &Arc<Container>, name: &str, enough: impl Fn(bool) -> bool) -> bool {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
    };
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let first = Instant::now() + seconds(probe.initial_delay_seconds, 0);
    let limit = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    let mut times = interval_at(first, period);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut last, mut alike) = (None, 0);
    loop {
        times.tick().await;
        if name != "readiness" && container.is_ending() {
            return std::future::pending().await;
        }
        let asked = ask(
            probe.http_get.as_ref(),
            probe.tcp_socket.as_ref(),
            probe.exec.as_ref(),
            container,
        );
        let answer = timeout(limit, asked)
            .await
            .unwrap_or_else(|_| Err(format!("no answer in {limit:?}")));
        let good = answer.is_ok();
        if last == Some(good) {
            alike += 1;
        } else {
            (last, alike) = (Some(good), 1);
        }
        if let Err(error) = &answer {
            container.log().event(&format!("{name} probe: {error}"));
        }
        let threshold = if good {
            probe.success_threshold.unwrap_or(1)
        } else {
            probe.failure_threshold.unwrap_or(3)
        };
        if alike < threshold {
            continue;
        }
        if !good && name != "readiness" {
            container
                .log()
                .event(&format!("is ended, for its {name} probe has failed {alike} times"));
            let grace = container
                .place()
                .pod
                .spec
                .as_ref()
                .and_then(|spec| spec.termination_grace_period_seconds);
            let grace = probe
                .termination_grace_period_seconds
                .or(grace)
                .and_then(|grace| u64::try_from(grace).ok());
            let deadline = Instant::now() + Duration::from_secs(grace.unwrap_or(30));
            container.stop(watch::Sender::new(deadline).subscribe(), async {}).await;
        }
        if enough(good) {
            return good;
        }
    }
}

async fn ask(
    http: Option<&HTTPGetAction>,
    tcp: Option<&TCPSocketAction>,
    exec: Option<&ExecAction>,
    container: &Container,
) -> Result<(), String> {
    if let Some(http) = http {
        let host = http.host.clone().unwrap_or_else(|| container.place().ip.to_string());
        let path = http.path.as_deref().unwrap_or("/");
        return get(&host, port(&http.port, container)?, path).await;
    }
    if let Some(tcp) = tcp {
        let host = tcp.host.clone().unwrap_or_else(|| container.place().ip.to_string());
        let connected = TcpStream::connect((host, port(&tcp.port, container)?)).await;
        return connected.map(drop).map_err(|error| error.to_string());
    }
    let command = exec
        .and_then(|exec| exec.command.clone())
        .ok_or("it asks nothing that is known here")?;
    let output = container.exec(&command).await?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        container.log().event(&format!("{}: {line}", command[0]));
    }
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

/// A GET on a connection of its own. Any answer from 200 to 399 is good.
async fn get(host: &str, port: u16, path: &str) -> Result<(), String> {
    let exchange = async {
        let mut socket = TcpStream::connect((host, port)).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: kube-probe/1.37\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        socket.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = exchange.await.map_err(|error| error.to_string())?;
    let status: u16 = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or("its answer is no HTTP")?;
    if (200..400).contains(&status) {
        return Ok(());
    }
    let text = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Err(format!("{status} {}", text.trim_end()))
}

fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.spec.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(name));
            named
                .ok_or_else(|| format!("the container has no port {name}"))?
                .container_port
        }
    };
    u16::try_from(number).map_err(|_| format!("{number} is no port"))
}

/// How much of an answer is read.
const MAX_ANSWER: u64 = 10 * 1024;
