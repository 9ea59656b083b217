//! A folder of manifests, and every way in which editors and programs change one.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// A folder of a test's own; removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("holdfast-continuity-{}-{}", process::id(), MADE.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn at(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    pub fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        fs::write(self.at(file), text).unwrap();
    }

    pub fn remove(&self, file: &str) {
        fs::remove_file(self.at(file)).unwrap();
    }

    /// As most editors save: beside it, then over it.
    pub fn replace(&self, file: &str, text: impl AsRef<[u8]>) {
        let beside = self.at(&format!(".{file}.new"));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.at(file)).unwrap();
    }

    /// In pieces, with the file open between them.
    fn dribble(&self, file: &str, text: &str) {
        let mut open = fs::File::create(self.at(file)).unwrap();
        for piece in text.as_bytes().chunks(64) {
            open.write_all(piece).unwrap();
            open.flush().unwrap();
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A route to a Service on port 80.
pub fn route(name: &str, path: &str, service: &str, more: &str) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: WebSocketRoute\nmetadata: {{name: {name}}}\nspec:\n  rules:\n  - name: main\n    \
         matches:\n    - path: {{type: PathPrefix, value: {path}}}\n    backendRefs:\n    - {{name: {service}, port: 80}}\n{more}"
    )
}

/// A route that answers plain requests with 426, so that it can be seen from outside whether it is in effect.
pub fn marker(name: &str, path: &str) -> String {
    route(name, path, "nothing", "    fallback: {type: Reject}\n")
}

pub fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports:\n  - {{port: 80}}\n")
}

/// The endpoints of a Service on one port, each with whether it is ready.
pub fn slice(name: &str, service: &str, port: u16, endpoints: &[(&str, bool)]) -> String {
    let mut out = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  labels: \
         {{kubernetes.io/service-name: {service}}}\naddressType: IPv4\nports:\n- {{port: {port}}}\nendpoints:\n"
    );
    for (address, ready) in endpoints {
        out.push_str(&format!("- addresses: [{address}]\n  conditions: {{ready: {ready}}}\n"));
    }
    out
}

/// A Service whose one endpoint is at `address`.
pub fn service_at(name: &str, address: SocketAddr) -> String {
    let endpoints = slice(name, name, address.port(), &[(&address.ip().to_string(), true)]);
    format!("{}---\n{endpoints}", service(name))
}

/// A busy folder: the tunnels' route and Service, and many things that are none of theirs.
pub struct Busy {
    pub folder: Folder,
    endpoint: SocketAddr,
    changes: usize,
    /// Whether the neighbours' files have their other name, or are away, by number.
    moved: [bool; NEIGHBOURS],
    away: [bool; NEIGHBOURS],
}

impl Busy {
    /// `endpoint`: where `/tunnel` leads.
    pub fn new(endpoint: SocketAddr) -> Self {
        let busy = Self {
            folder: Folder::new(),
            endpoint,
            changes: 0,
            moved: [false; NEIGHBOURS],
            away: [false; NEIGHBOURS],
        };
        let folder = &busy.folder;
        folder.write("tunnels.yaml", busy.tunnels("45s"));
        folder.write("echo.yaml", busy.echo(&[]));
        folder.write("other.yaml", other(true));
        folder.write("marker.yaml", marker("marker", "/marker-0"));
        for neighbour in 0..NEIGHBOURS {
            folder.write(&busy.file(neighbour), busy.neighbour(neighbour));
        }
        fs::create_dir(folder.at("mounted")).unwrap();
        busy.mount();
        symlink("..data/mounted.yaml", folder.at("mounted/mounted.yaml")).unwrap();
        busy
    }

    /// How many changes there were.
    pub fn changes(&self) -> usize {
        self.changes
    }

    /// Makes the next change: each way of changing has its turn, each neighbour too.
    pub fn change(&mut self) {
        self.changes += 1;
        let neighbour = self.changes / WAYS % NEIGHBOURS;
        let file = self.file(neighbour);
        let text = self.neighbour(neighbour);
        let folder = &self.folder;
        match self.changes % WAYS {
            0 => folder.write(&file, text),
            1 => folder.replace(&file, text),
            2 => {
                let _ = fs::remove_file(folder.at(&file)); // it may be away
                folder.write(&file, text);
            }
            3 => folder.write(&file, text.replace("backendRefs:", "backendRefs: [")),
            4 => folder.dribble(&file, &text),
            5 => folder.replace(&file, text.replace("backendRefs:", "backendReferences:")),
            6 => folder.write(&file, &text[..text.len() / 2]),
            7 => folder.write(&file, b"\xFF\xFE\x00"),
            8 => self.rename(neighbour),
            9 => self.vanish(neighbour),
            10 => folder.write("other.yaml", other(false)),
            11 => folder.replace("other.yaml", other(true)),
            // The tunnels' own files: a broken one, half a one, another policy, more and fewer endpoints beside theirs.
            12 => folder.write("tunnels.yaml", self.tunnels("45s").replace("rules:", "rules: {")),
            13 => folder.replace("tunnels.yaml", self.tunnels(["45s", "50s", "55s"][neighbour % 3])),
            14 => {
                let text = self.echo(&[]);
                folder.write("echo.yaml", &text[..text.len() - 40]);
            }
            15 => folder.write("echo.yaml", self.echo(&[("127.0.0.2", true), ("127.0.0.3", false)])),
            16 => folder.replace("echo.yaml", self.echo(&[])),
            _ => self.mount(),
        }
    }

    /// Lets the marker move to a path of its own, and returns that.
    pub fn mark(&mut self) -> String {
        self.changes += 1;
        let path = format!("/marker-{}", self.changes);
        let text = marker("marker", &path);
        match self.changes % 4 {
            0 => self.folder.write("marker.yaml", text),
            1 => self.folder.replace("marker.yaml", text),
            2 => {
                self.folder.remove("marker.yaml");
                self.folder.write("marker.yaml", text);
            }
            _ => self.folder.dribble("marker.yaml", &text),
        }
        path
    }

    fn tunnels(&self, interval: &str) -> String {
        let heartbeat = format!("  heartbeat:\n    client: {{interval: {interval}}}\n");
        route("tunnels", "/tunnel", "echo", &heartbeat)
    }

    fn echo(&self, more: &[(&str, bool)]) -> String {
        let ip = self.endpoint.ip().to_string();
        let endpoints = [&[(&*ip, true)], more].concat();
        let slice = slice("echo", "echo", self.endpoint.port(), &endpoints);
        format!("{}---\n{slice}", service("echo"))
    }

    fn neighbour(&self, number: usize) -> String {
        let name = format!("neighbour-{number}");
        route(&name, &format!("/{name}/{}", self.changes), "other", "")
    }

    fn file(&self, number: usize) -> String {
        let kind = if self.moved[number] { "moved" } else { "neighbour" };
        format!("{kind}-{number}.yaml")
    }

    fn rename(&mut self, number: usize) {
        let from = self.folder.at(&self.file(number));
        self.moved[number] = !self.moved[number];
        let _ = fs::rename(from, self.folder.at(&self.file(number))); // it may be away
    }

    /// Goes away, or comes back if it was.
    fn vanish(&mut self, number: usize) {
        self.away[number] = !self.away[number];
        if self.away[number] {
            self.folder.remove(&self.file(number));
        } else {
            self.folder.write(&self.file(number), self.neighbour(number));
        }
    }

    /// As a kubelet updates a mounted ConfigMap: a new folder, then one link that moves.
    fn mount(&self) {
        let mounted = self.folder.at("mounted");
        let old = fs::read_link(mounted.join("..data")).ok();
        let new = format!("..version-{}", self.changes);
        fs::create_dir(mounted.join(&new)).unwrap();
        let path = format!("/mounted/{}", self.changes);
        fs::write(mounted.join(&new).join("mounted.yaml"), route("mounted", &path, "other", "")).unwrap();
        symlink(&new, mounted.join("..data_tmp")).unwrap();
        fs::rename(mounted.join("..data_tmp"), mounted.join("..data")).unwrap();
        if let Some(old) = old {
            fs::remove_dir_all(mounted.join(old)).unwrap();
        }
    }
}

/// A Service that no tunnel uses, whose endpoint comes and goes.
fn other(ready: bool) -> String {
    format!(
        "{}---\n{}",
        service("other"),
        slice("other", "other", 9, &[("127.0.0.1", ready)])
    )
}

const NEIGHBOURS: usize = 20;

/// Ways of changing the folder.
const WAYS: usize = 18;
