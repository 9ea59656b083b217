//! Where a pod runs: its network, its address, its directory. All its containers share it.

use std::{fs, net::Ipv4Addr, path::PathBuf, process::Stdio};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::network::{Cable, DNS, node_ip, pod_ip};

/// A pod's place. Its network is gone when this is dropped and all processes in it have ended.
pub struct Place {
    pub pod: Pod,
    pub ip: Ipv4Addr,
    pub node_ip: Ipv4Addr,
    /// Host and port of the API server, as pods reach it.
    pub api_server: (String, String),
    /// What containers mount is here.
    pub dir: PathBuf,
    pub cable: Cable,
    /// Keeps the network, and does nothing.
    keeper: Child,
}

impl Place {
    /// Makes it. `node` and `number` make the pod's address.
    pub async fn make(pod: Pod, node: u8, number: u8, api_server: (String, String), dir: PathBuf) -> Self {
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", "echo && exec sleep infinity"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut keeper = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let made = keeper.stdout.take().unwrap();
        BufReader::new(made).lines().next_line().await.unwrap();
        let security = pod.spec.as_ref().and_then(|spec| spec.security_context.clone());
        let sysctls = security.and_then(|security| security.sysctls).unwrap_or_default();
        let sysctls: Vec<_> = sysctls.into_iter().map(|sysctl| (sysctl.name, sysctl.value)).collect();
        let cable = Cable::lay(node, number, keeper.id().unwrap(), &sysctls).await;
        let place = Self {
            pod,
            ip: pod_ip(node, number),
            node_ip: node_ip(node),
            api_server,
            dir,
            cable,
            keeper,
        };
        place.write_etc();
        place
    }

    pub fn namespace(&self) -> String {
        self.pod.namespace().unwrap_or_default()
    }

    /// A process in the pod's network.
    pub fn network(&self) -> u32 {
        self.keeper.id().expect("nobody waits for it")
    }

    /// What every container finds in /etc.
    fn write_etc(&self) {
        let (etc, name, namespace) = (self.dir.join("etc"), self.pod.name_any(), self.namespace());
        fs::create_dir_all(&etc).unwrap();
        let write = |file: &str, text: String| fs::write(etc.join(file), text).unwrap();
        write("hostname", format!("{name}\n"));
        write("hosts", format!("127.0.0.1 localhost\n::1 localhost\n{} {name}\n", self.ip));
        write("nsswitch.conf", "hosts: files dns\n".to_owned());
        write(
            "passwd",
            "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n".to_owned(),
        );
        write(
            "resolv.conf",
            format!("nameserver {DNS}\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"),
        );
    }
}
