//! A folder out of which nothing leads: neither steps up nor symbolic links. And no devices, pipes or sockets in it.

use std::{
    fs::{self, File},
    future::{Future, ready},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};
use tokio::{
    io::{AsyncRead, AsyncSeek, ReadBuf},
    task::spawn_blocking,
};
use tower_http::services::fs::{self as served, Backend};

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Beneath(Arc<Path>);

/// A file of it.
pub(super) struct Opened {
    file: tokio::fs::File,
    /// As it was opened.
    metadata: fs::Metadata,
}

/// What is known of a file.
pub(super) struct Facts(fs::Metadata);

type Promise<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl Beneath {
    pub(super) fn new(root: &Path) -> Self {
        Self(Arc::from(root))
    }
}

impl Backend for Beneath {
    type File = Opened;
    type Metadata = Facts;
    type OpenFuture = Promise<Opened>;
    type MetadataFuture = Promise<Facts>;

    fn open(&self, path: PathBuf) -> Promise<Opened> {
        let root = Arc::clone(&self.0);
        Box::pin(async move {
            let (file, metadata) = spawn_blocking(move || open(&root, &path)).await??;
            Ok(Opened {
                file: tokio::fs::File::from_std(file),
                metadata,
            })
        })
    }

    fn metadata(&self, path: PathBuf) -> Promise<Facts> {
        let root = Arc::clone(&self.0);
        Box::pin(async move {
            let (_, metadata) = spawn_blocking(move || open(&root, &path)).await??;
            Ok(Facts(metadata))
        })
    }
}

/// Opens a file or a folder. The root's own name is followed each time, so that a release may be put in place by renaming it.
fn open(root: &Path, path: &Path) -> io::Result<(File, fs::Metadata)> {
    let folder = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let folder = folder.map_err(|error| io::Error::other(io::Error::from(error)))?; // not that a file is absent
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(&folder, path, FLAGS, Mode::empty(), beneath) {
        // Kernels before 5.6 and some sandboxes do not know the call; it also gives up when somebody is renaming.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => open_checked(root, path),
        opened => opened.map(File::from).map_err(absent),
    }?;
    let metadata = file.metadata()?;
    if metadata.is_file() || metadata.is_dir() {
        Ok((file, metadata))
    } else {
        Err(ErrorKind::NotFound.into())
    }
}

/// The same in two steps.
fn open_checked(root: &Path, path: &Path) -> io::Result<File> {
    let root = root.canonicalize().map_err(io::Error::other)?;
    let path = root.join(path).canonicalize()?;
    if !path.starts_with(&root) {
        return Err(ErrorKind::NotFound.into());
    }
    let opened = rustix::fs::open(&path, FLAGS | OFlags::NOFOLLOW, Mode::empty());
    opened.map(File::from).map_err(absent)
}

/// What leads out of the folder, or nowhere, is not there.
fn absent(error: Errno) -> io::Error {
    match error {
        Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG | Errno::NXIO | Errno::NODEV | Errno::INVAL => ErrorKind::NotFound.into(),
        error => error.into(),
    }
}

/// A pipe that nobody writes to is opened at once, to be refused, instead of being waited for.
const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

impl served::File for Opened {
    type Metadata = Facts;
    type MetadataFuture<'a> = Pin<Box<dyn Future<Output = io::Result<Facts>> + Send + 'a>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        Box::pin(ready(Ok(Facts(self.metadata.clone()))))
    }
}

impl AsyncRead for Opened {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_read(cx, into)
    }
}

impl AsyncSeek for Opened {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.file).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.file).poll_complete(cx)
    }
}

impl served::Metadata for Facts {
    fn is_dir(&self) -> bool {
        self.0.is_dir()
    }

    /// Images that are built reproducibly have the same time on every file, in every version: it says nothing, and an ETag of
    /// it would be the same for two contents of one length.
    fn modified(&self) -> io::Result<SystemTime> {
        let modified = self.0.modified()?;
        if modified <= SystemTime::UNIX_EPOCH + Duration::from_secs(1) {
            return Err(ErrorKind::Unsupported.into());
        }
        Ok(modified)
    }

    fn len(&self) -> u64 {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder with a secret beside it.
    struct Scene(PathBuf);

    impl Scene {
        fn new(name: &str) -> Self {
            let scene = Self(std::env::temp_dir().join(format!("holdfast-beneath-{}-{name}", std::process::id())));
            fs::create_dir_all(scene.root().join("app/deep")).unwrap();
            fs::write(scene.0.join("secret"), "s").unwrap();
            fs::write(scene.root().join("app/index.html"), "x").unwrap();
            scene
        }

        fn root(&self) -> PathBuf {
            self.0.join("root")
        }

        fn link(&self, to: &str, name: &str) {
            symlink(to, self.root().join(name)).unwrap();
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn links_are_followed_within_the_folder_only() {
        let scene = Scene::new("links");
        scene.link("app", "inside");
        scene.link("../../root/app", "app/deep/through");
        scene.link("../secret", "out");
        scene.link("../..", "app/up");
        scene.link("turn", "turn");
        let root = scene.root();
        type Open = fn(&Path, &Path) -> io::Result<File>;
        let by_kernel: Open = |root, path| open(root, path).map(|(file, _)| file);
        for (name, open) in [("kernel", by_kernel), ("checked", open_checked as Open)] {
            let is_open = |path: &str| open(&root, Path::new(path)).is_ok();
            for path in ["./app/index.html", "app", "inside/index.html", "."] {
                assert!(is_open(path), "{name}: {path}");
            }
            for path in ["out", "../secret", "app/../../secret", "app/up/secret", "turn", "none"] {
                assert!(!is_open(path), "{name}: {path}");
            }
        }
        // To the kernel, a way out and in again is a way out.
        for path in ["app/deep/through/index.html", "app/up/root/app/index.html"] {
            assert!(open(&root, Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn a_pipe_is_no_file_and_is_not_waited_for() {
        let scene = Scene::new("pipe");
        let made = std::process::Command::new("mkfifo").arg(scene.root().join("pipe")).status();
        assert!(made.unwrap().success());
        assert_eq!(
            open(&scene.root(), Path::new("pipe")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn a_root_that_is_gone_is_no_file_that_is_absent() {
        let scene = Scene::new("gone");
        let error = open(&scene.0.join("gone"), Path::new("x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Other, "{error}");
        assert_eq!(
            open(&scene.root(), Path::new("gone")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }
}
