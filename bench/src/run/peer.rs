//! Who is compared, and how each is set up: one worker, no access log, timeouts of an hour, limits above what the rows need,
//! everything else as shipped, except where an operator of WebSockets would surely change it.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::ValueEnum;

use crate::certificate::{Files, HOST};
use crate::failure::{Failure, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Peer {
    Holdfast,
    Nginx,
    Haproxy,
    Caddy,
    Envoy,
}

/// What a program is to do.
pub struct Setup<'a> {
    pub listen: SocketAddr,
    /// For its own answers, where it has any.
    pub admin: SocketAddr,
    pub endpoint: SocketAddr,
    /// Where its configuration goes.
    pub folder: &'a Path,
    /// With TLS on `listen`, by this certificate.
    pub certificate: Option<&'a Files>,
}

/// A peer's program on this machine.
pub struct Program {
    pub peer: Peer,
    pub path: PathBuf,
    pub version: String,
    arguments: Vec<String>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Holdfast => "Holdfast",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Caddy => "Caddy",
            Self::Envoy => "Envoy",
        })
    }
}

impl Peer {
    fn program(self) -> &'static str {
        match self {
            Self::Holdfast => "holdfast",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Caddy => "caddy",
            Self::Envoy => "envoy",
        }
    }

    fn version_argument(self) -> &'static str {
        match self {
            Self::Holdfast | Self::Caddy => "version",
            Self::Nginx | Self::Haproxy => "-v",
            Self::Envoy => "--version",
        }
    }
}

impl Program {
    pub fn at(peer: Peer, path: &Path, arguments: &[String]) -> Result<Self> {
        let cannot = |why: &dyn fmt::Display| Failure::new(format_args!("ask {} for its version", path.display()), why);
        let output = Command::new(path)
            .arg(peer.version_argument())
            .output()
            .map_err(|error| cannot(&error))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let version = version(&text).ok_or_else(|| cannot(&format_args!("it said {text:?}")))?;
        Ok(Self {
            peer,
            path: path.to_owned(),
            version: version.to_owned(),
            arguments: arguments.to_vec(),
        })
    }

    /// In `folder` or PATH.
    pub fn find(peer: Peer, folder: &Path) -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
        let folders = [folder.to_owned()]
            .into_iter()
            .chain(std::env::split_paths(&path))
            .chain(more);
        let found = folders.map(|folder| folder.join(peer.program())).find(|file| file.is_file());
        match found {
            Some(file) => Self::at(peer, &fs::canonicalize(&file).unwrap_or(file), &[]),
            None => Err(Failure::new(
                format_args!("find {}", peer.program()),
                format_args!("not in {} nor in PATH", folder.display()),
            )),
        }
    }

    /// How it is started.
    pub fn command(&self, setup: &Setup) -> Result<Command> {
        let folder = setup.folder;
        let mut command = Command::new(&self.path);
        let file = |name: &str, text: String| -> Result<OsString> {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|error| Failure::new(format_args!("write {}", path.display()), error))?;
            Ok(path.into())
        };
        match self.peer {
            Peer::Holdfast => {
                let (listen, endpoint) = (setup.listen.to_string(), setup.endpoint.to_string());
                match setup.certificate {
                    None => command.args(["--to", &endpoint, "--http", &listen]),
                    Some(certificate) => {
                        let manifests = file("holdfast.yaml", holdfast(setup.endpoint, certificate)?)?;
                        command.arg("--manifests").arg(manifests);
                        command.args(["--https", &listen, "--http", "127.0.0.1:0"])
                    }
                };
                command.args(["--admin", &setup.admin.to_string()]);
                command.args(["--workers", "1", "--access-log", "off"]).args(&self.arguments);
            }
            Peer::Nginx => {
                let configuration = file("nginx.conf", nginx(setup))?;
                command.args(["-e", "stderr", "-p"]).arg(folder).arg("-c").arg(configuration);
            }
            Peer::Haproxy => {
                command.args(["-db", "-f"]).arg(file("haproxy.cfg", haproxy(setup))?);
            }
            Peer::Caddy => {
                command
                    .args(["run", "--adapter", "caddyfile", "--config"])
                    .arg(file("Caddyfile", caddy(setup))?);
                command
                    .env("GOMAXPROCS", "1")
                    .env("HOME", folder)
                    .env("XDG_DATA_HOME", folder)
                    .env("XDG_CONFIG_HOME", folder);
            }
            Peer::Envoy => {
                command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]);
                command.arg(file("envoy.yaml", envoy(setup))?);
            }
        }
        Ok(command)
    }
}

/// The first word like 1.2.3 in what a program says of itself.
fn version(text: &str) -> Option<&str> {
    let words = text
        .split(|c: char| c.is_whitespace() || c == '/')
        .map(|word| word.trim_start_matches('v').trim_end_matches(','));
    words
        .into_iter()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
}

fn holdfast(endpoint: SocketAddr, certificate: &Files) -> Result<String> {
    let encoded = |file: &Path| {
        let text = fs::read(file).map_err(|error| Failure::new(format_args!("read {}", file.display()), error))?;
        Ok(STANDARD.encode(text))
    };
    let (chain, key) = (encoded(&certificate.chain)?, encoded(&certificate.key)?);
    let (ip, port) = (endpoint.ip(), endpoint.port());
    Ok(format!(
        "apiVersion: holdfast.dev/v1alpha1
kind: WebSocketRoute
metadata: {{name: bench}}
spec:
  hostnames: [{HOST}]
  tls: [{{secretName: bench}}]
  rules: [{{backendRefs: [{{name: endpoint, port: 80}}]}}]
---
apiVersion: v1
kind: Secret
metadata: {{name: bench}}
type: kubernetes.io/tls
data: {{tls.crt: {chain}, tls.key: {key}}}
---
apiVersion: v1
kind: Service
metadata: {{name: endpoint}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: endpoint, labels: {{kubernetes.io/service-name: endpoint}}}}
addressType: IPv4
ports: [{{port: {port}}}]
endpoints: [{{addresses: ['{ip}']}}]
"
    ))
}

fn nginx(setup: &Setup) -> String {
    let (listen, endpoint, folder) = (setup.listen, setup.endpoint, setup.folder.display());
    let (ssl, certificate) = match setup.certificate {
        None => ("", String::new()),
        Some(Files { chain, key, .. }) => {
            let (chain, key) = (chain.display(), key.display());
            (" ssl", format!("ssl_certificate {chain};\n    ssl_certificate_key {key};"))
        }
    };
    format!(
        "daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 19900; }}
http {{
  access_log off;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  server {{
    listen {listen} backlog=4096{ssl};
    {certificate}
    location / {{
      proxy_pass http://{endpoint};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header Host $http_host;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_read_timeout 1h;
      proxy_send_timeout 1h;
    }}
  }}
}}
"
    )
}

fn haproxy(setup: &Setup) -> String {
    let (listen, endpoint) = (setup.listen, setup.endpoint);
    let (ssl, scheme) = match setup.certificate {
        None => (String::new(), "http"),
        Some(files) => (format!(" ssl crt {} alpn http/1.1", files.both.display()), "https"),
    };
    format!(
        "global
  nbthread 1
  maxconn 9800
defaults
  mode http
  timeout connect 5s
  timeout client 1m
  timeout server 1m
  timeout tunnel 1h
  option forwardfor
frontend bench
  bind {listen} backlog 4096{ssl}
  http-request set-header X-Forwarded-Proto {scheme}
  default_backend endpoint
backend endpoint
  server endpoint {endpoint}
"
    )
}

fn caddy(setup: &Setup) -> String {
    let (listen, endpoint) = (setup.listen, setup.endpoint);
    let (site, tls) = match setup.certificate {
        None => ("http://".to_owned(), String::new()),
        Some(Files { chain, key, .. }) => (
            format!("https://{HOST}"),
            format!("tls {} {}", chain.display(), key.display()),
        ),
    };
    format!(
        "{{
  admin off
  persist_config off
  auto_https off
  log {{
    level ERROR
  }}
}}
{site}:{port} {{
  bind {ip}
  {tls}
  reverse_proxy {endpoint}
}}
",
        ip = listen.ip(),
        port = listen.port()
    )
}

fn envoy(setup: &Setup) -> String {
    let (ip, port) = (setup.listen.ip(), setup.listen.port());
    let (endpoint_ip, endpoint_port) = (setup.endpoint.ip(), setup.endpoint.port());
    let tls = setup.certificate.map_or_else(String::new, |Files { chain, key, .. }| {
        let (chain, key) = (chain.display(), key.display());
        format!(
            r#"
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [http/1.1]
            tls_certificates: [{{certificate_chain: {{filename: "{chain}"}}, private_key: {{filename: "{key}"}}}}]"#
        )
    });
    format!(
        r#"static_resources:
  listeners:
  - name: bench
    address: {{socket_address: {{address: "{ip}", port_value: {port}}}}}
    tcp_backlog_size: 4096
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          use_remote_address: true
          stream_idle_timeout: 3600s
          upgrade_configs: [{{upgrade_type: websocket}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: bench
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: endpoint, timeout: 0s}}}}]{tls}
  clusters:
  - name: endpoint
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds: [{{max_connections: 20000, max_pending_requests: 20000, max_requests: 20000, max_retries: 3}}]
    load_assignment:
      cluster_name: endpoint
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: "{endpoint_ip}", port_value: {endpoint_port}}}}}}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_the_programs_say_them() {
        assert_eq!(version("nginx version: nginx/1.30.6\n"), Some("1.30.6"));
        assert_eq!(
            version("HAProxy version 3.2.26-1 2026/10/14 - https://haproxy.org/"),
            Some("3.2.26-1")
        );
        assert_eq!(version("v2.11.4 h1:XKxkMTgNSiz="), Some("2.11.4"));
        assert_eq!(
            version("\nenvoy  version: 3fa0f9/1.40.0/Clean/RELEASE/BoringSSL\n"),
            Some("1.40.0")
        );
        assert_eq!(version("holdfast 0.1.0 (cd34bca)\n"), Some("0.1.0"));
        assert_eq!(version("what?"), None);
    }
}
