//! The folder that the demo's Holdfast follows: what the user gave, a route that stays, one that is edited, and the endpoints
//! that both lead to.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
};

/// The folder. Dropping it removes it.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it, with a link to `given`.
    pub fn new(given: &Path) -> io::Result<Self> {
        let given =
            fs::canonicalize(given).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", given.display())))?;
        let folder = Self(env::temp_dir().join(format!("holdfast-demo-{}", process::id())));
        fs::create_dir_all(&folder.0)?;
        symlink(given, folder.0.join("given"))?;
        folder.write("steady.yaml", STEADY)?;
        folder.edit(0)?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes the edited route for the `number`th time: another heartbeat, and one more rule with a path of its own.
    pub fn edit(&self, number: u32) -> io::Result<()> {
        let interval = 30 + number % 30;
        self.write(
            "edited.yaml",
            &format!(
                "# Edit {number}\n\
                 apiVersion: holdfast.dev/v1alpha1\n\
                 kind: WebSocketRoute\n\
                 metadata: {{name: edited}}\n\
                 spec:\n\
                 \x20 rules:\n\
                 \x20 - name: edited\n\
                 \x20   matches: [{{path: {{type: PathPrefix, value: /edited}}}}]\n\
                 \x20   backendRefs: [{{name: demo, port: 80}}]\n\
                 \x20 - name: edit-{number}\n\
                 \x20   matches: [{{path: {{type: Exact, value: /edited/number-{number}}}}}]\n\
                 \x20   backendRefs: [{{name: demo, port: 80}}]\n\
                 \x20 heartbeat: {{client: {{interval: {interval}s}}}}\n"
            ),
        )
    }

    /// An endpoint that is ready.
    pub fn add_endpoint(&self, name: &str, port: u16) -> io::Result<()> {
        self.write(
            &format!("{name}.yaml"),
            &format!(
                "apiVersion: discovery.k8s.io/v1\n\
                 kind: EndpointSlice\n\
                 metadata:\n\
                 \x20 name: demo-{name}\n\
                 \x20 labels: {{kubernetes.io/service-name: demo}}\n\
                 addressType: IPv4\n\
                 ports: [{{port: {port}}}]\n\
                 endpoints:\n\
                 - addresses: [127.0.0.1]\n\
                 \x20 conditions: {{ready: true}}\n\
                 \x20 targetRef: {{kind: Pod, name: {name}, uid: {name}}}\n"
            ),
        )
    }

    pub fn remove_endpoint(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(format!("{name}.yaml")))
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        // Who reads sees the old file or the new one, and none that begins with a point.
        let hidden = self.0.join(format!(".{name}"));
        fs::write(&hidden, text)?;
        fs::rename(hidden, self.0.join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // the link goes, not what it leads to
    }
}

const STEADY: &str = "\
# This one stays as it is.
apiVersion: holdfast.dev/v1alpha1
kind: WebSocketRoute
metadata: {name: steady}
spec:
  rules:
  - name: steady
    matches: [{path: {type: PathPrefix, value: /steady}}]
    backendRefs: [{name: demo, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: demo}
spec:
  ports: [{port: 80}]
";
