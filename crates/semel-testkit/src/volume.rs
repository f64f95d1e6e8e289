//! A disk of its own for a server: ext4 in a file, mounted by a loop device. It can lose its power: what was not synced
//! is gone when it is mounted again, as the kernel's own shutdown of a file system leaves it. And it can be full.
//!
//! Needs root, `mkfs.ext4` and `python3`; [`Volume::make`] says so when it is refused. Every write that the kernel had
//! handed to the disk before a cut is there afterwards, in order and whole: for torn and reordered writes of one
//! process there is [`crate::shim::disk`].

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(30);

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: at once, and without writing the journal first.
const CUT: &str = "import fcntl, os, struct, sys\n\
                   fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// The disk, mounted until it is dropped.
#[derive(Debug)]
pub struct Volume {
    folder: TempDir,
}

impl Volume {
    /// Makes an empty one of so many bytes.
    ///
    /// # Errors
    /// What the system said: most often that root is needed.
    pub fn make(bytes: u64) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("semel-volume-").tempdir();
        let volume = Self { folder: folder.map_err(|error| format!("no temporary folder: {error}"))? };
        let image = volume.image();
        let made = File::create(&image).and_then(|file| file.set_len(bytes));
        made.and_then(|()| fs::create_dir(volume.path())).map_err(|error| format!("{error}"))?;
        // No blocks for root alone, and no discarding while it is mounted.
        run("mkfs.ext4", &[Path::new("-q"), Path::new("-m"), Path::new("0"), &image])?;
        volume.mount()?;
        Ok(volume)
    }

    /// Where its files are.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &[Path::new("-o"), Path::new("loop"), &self.image(), &self.path()])
    }

    /// Cuts the power: from now on every write and sync fails.
    ///
    /// # Errors
    /// What the system said.
    pub fn cut(&self) -> Result<(), String> {
        run("python3", &[Path::new("-c"), Path::new(CUT), &self.path()])
    }

    /// Gives the power back, once who used it is gone.
    ///
    /// # Errors
    /// When somebody uses it for half a minute still, or it cannot be mounted.
    pub fn restore(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = run("umount", &[&self.path()]) {
            if Instant::now() > deadline {
                return Err(why);
            }
            sleep(Duration::from_millis(20));
        }
        self.mount()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Also when somebody still uses it, who will be gone in a moment.
        let _ = run("umount", &[Path::new("-l"), &self.path()]);
    }
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let ran =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    if ran.status.success() { Ok(()) } else { Err(format!("{program}: {}; root is needed", said.trim())) }
}
