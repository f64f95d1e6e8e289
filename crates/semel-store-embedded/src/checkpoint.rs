//! Moves what was committed from the write-ahead log into the file, beside the writer and in small steps.
//!
//! The log starts over only when nothing of it is left to move, so the writer itself moves the short rest once the
//! log is long. Next: [`crate::writer`].

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::DEFAULT_NAME;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, OpenFlags};

use crate::fault::Fault;

/// From how many frames to be moved on the other thread is woken.
const STEP_FRAMES: i32 = 400;
/// From how long a log on it is started over.
const RESTART_FRAMES: i32 = 800;
/// Beyond this the writer moves everything itself, whatever it costs: the other thread does not keep up.
const LOG_MAX_FRAMES: i32 = 2_000;

#[derive(Debug)]
pub(crate) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    busy: AtomicBool,
    failure: Mutex<Option<rusqlite::Error>>,
}

impl Checkpointer {
    pub(crate) fn start(path: &Path) -> Result<Self, std::io::Error> {
        let shared = Arc::new(Shared::default());
        let (wake, woken) = sync_channel(1);
        let path = path.to_owned();
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("semel-checkpoint".into())
            .spawn(move || run(&path, &woken, &theirs))?;
        Ok(Self { wake: Some(wake), shared, thread: Some(thread) })
    }

    /// Called by the writer between two transactions.
    pub(crate) fn pace(&self, conn: &Connection) -> Result<(), Fault> {
        if let Some(error) = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error.into());
        }
        if self.shared.busy.load(Ordering::Acquire) {
            return Ok(());
        }
        let (log, moved) = conn.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::NOOP)?;
        let rest = log - moved;
        if log > LOG_MAX_FRAMES || (log > RESTART_FRAMES && rest < STEP_FRAMES) {
            conn.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::PASSIVE)?;
        } else if rest >= STEP_FRAMES {
            self.shared.busy.store(true, Ordering::Release);
            if let Some(wake) = &self.wake {
                // A full channel means that the thread is about to look anyway.
                let _ = wake.try_send(());
            }
        }
        Ok(())
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported when it happened; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

fn run(path: &Path, woken: &Receiver<()>, shared: &Shared) {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags);
    while woken.recv().is_ok() {
        let moved = match &conn {
            Ok(conn) => conn.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::PASSIVE).map(|_| ()),
            // The writer moves everything itself once the log is at its longest.
            Err(_) => Ok(()),
        };
        match moved {
            Err(error) if error.sqlite_error_code() != Some(rusqlite::ErrorCode::DatabaseBusy) => {
                *shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            _ => {}
        }
        shared.busy.store(false, Ordering::Release);
    }
}
