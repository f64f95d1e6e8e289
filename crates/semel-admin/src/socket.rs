//! The owner-only Unix socket: who runs Semel, and root, may change records through it; nobody else can connect.
//!
//! Both ends look at whose process the other one is: the file's mode alone does not protect a socket in a folder
//! that others may write to. Not what is said over it; that is [`crate::api`].

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::serve::Listener;
use rustix::process::geteuid;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

/// The rest after an accept that failed for lack of descriptors, so that it does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening socket. Dropping it removes its file.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our file: another process may have put its own in the place.
    file: (u64, u64),
}

/// Why there is no socket.
#[derive(Debug)]
#[non_exhaustive]
pub enum SocketError {
    /// Another process serves it.
    Served(PathBuf),
    /// There is something else than a socket.
    NotASocket(PathBuf),
    /// The system refused.
    Io(PathBuf, io::Error),
}

impl Socket {
    /// Listens at `path`, for the owner of this process and root only. A missing folder is made, for the owner
    /// only. The file of a process that has died is replaced.
    ///
    /// Two processes that start at the same moment may replace each other's file; what keeps them apart is the
    /// store, which has one owner.
    ///
    /// # Errors
    /// [`SocketError`]; nothing is replaced then.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |error| SocketError::Io(path.to_owned(), error);
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::NotASocket(path.to_owned()));
            }
            Ok(_) if BlockingStream::connect(path).is_ok() => {
                return Err(SocketError::Served(path.to_owned()));
            }
            Ok(_) => fs::remove_file(path).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let file = identity(path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), file })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // Whoever comes next replaces a file that stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener for Socket {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) if is_owner(&stream) => return (stream, address),
                Ok(_) => tracing::warn!("another user's connection to the operator socket was closed"),
                Err(error) => {
                    tracing::warn!(%error, "the operator socket cannot accept");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Whether the client at the other end may change records.
fn is_owner(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == geteuid().as_raw() || peer.uid() == 0)
}

/// Whether the server at the other end may be told what to change: another user's process could have taken the place.
pub(crate) fn is_trusted(stream: &UnixStream) -> bool {
    is_owner(stream) || geteuid().is_root()
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Served(path) => write!(f, "another process serves the socket {}", path.display()),
            Self::NotASocket(path) => {
                write!(f, "{} is not a socket; it is left as it is", path.display())
            }
            Self::Io(path, _) => write!(f, "the socket {} cannot be opened", path.display()),
        }
    }
}

impl std::error::Error for SocketError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            Self::Served(_) | Self::NotASocket(_) => None,
        }
    }
}
