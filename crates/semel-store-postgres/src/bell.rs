//! Waking those who wait in other processes: LISTEN and NOTIFY on a connection of their own, beside the writes.
//!
//! A NOTIFY within a writing transaction would make all writers commit one after the other. So it follows the commit,
//! for many records at once, and a process that dies in between has told nobody: whoever waits also polls.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use semel::digest::Digest;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::codec;
use crate::session::Dialer;
use crate::watch::Watchers;

/// A payload has less than 8,000 bytes, and a digest 32.
const NOTE: usize = 240;
const QUEUE: usize = 16 * 1024;
const REDIAL_EVERY: Duration = Duration::from_millis(500);
/// A note costs a commit, and each listener a look. So notes that are not full follow each other no faster.
const PAUSE: Duration = Duration::from_millis(5);

/// Tells and hears what was written.
pub(crate) struct Bell {
    written: mpsc::Sender<Digest>,
    hears: Arc<AtomicBool>,
}

impl Bell {
    pub(crate) fn start(dialer: Arc<Dialer>, watchers: Arc<Watchers>) -> Self {
        let (written, waiting) = mpsc::channel(QUEUE);
        let hears = Arc::new(AtomicBool::new(false));
        tokio::spawn(ring(dialer, watchers, waiting, Arc::clone(&hears)));
        Self { written, hears }
    }

    /// Tells other processes, soon. When too much is waiting to be told, they find out by polling.
    pub(crate) fn tell(&self, digest: Digest) {
        let _ = self.written.try_send(digest);
    }

    /// Whether other processes are heard.
    pub(crate) fn hears(&self) -> bool {
        self.hears.load(Ordering::SeqCst)
    }
}

async fn ring(
    dialer: Arc<Dialer>,
    watchers: Arc<Watchers>,
    mut waiting: mpsc::Receiver<Digest>,
    hears: Arc<AtomicBool>,
) {
    while !waiting.is_closed() {
        let (heard, mut notes) = mpsc::unbounded_channel();
        if let Ok(session) = dialer.dial(Some(heard)).await
            // What is told needs not be on a disk.
            && session.client.batch_execute("SET synchronous_commit = off; LISTEN semel").await.is_ok()
        {
            hears.store(true, Ordering::SeqCst);
            // What was told meanwhile was not heard.
            watchers.wake_all();
            let mut digests = Vec::with_capacity(NOTE);
            let mut pause = pin!(sleep(Duration::ZERO));
            loop {
                let full = waiting.len() >= NOTE;
                tokio::select! {
                    note = notes.recv() => match note {
                        Some(note) => watchers.wake(read(&note).iter()),
                        None => break,
                    },
                    () = &mut pause, if !full && !pause.is_elapsed() => {}
                    taken = waiting.recv_many(&mut digests, NOTE), if full || pause.is_elapsed() => {
                        if taken == 0 {
                            return;
                        }
                        let note: String = digests.drain(..).map(|digest| digest.to_string()).collect();
                        if session.rows("SELECT pg_notify('semel', $1)", &[&note]).await.is_err() {
                            break;
                        }
                        pause.as_mut().reset(Instant::now() + PAUSE);
                    }
                }
            }
            hears.store(false, Ordering::SeqCst);
        }
        sleep(REDIAL_EVERY).await;
    }
}

fn read(note: &str) -> Vec<Digest> {
    let texts = note.as_bytes().chunks_exact(32);
    texts.filter_map(|text| Uuid::try_parse_ascii(text).ok()).map(codec::digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_told_and_heard_alike() {
        let digests = [[1; 16], [255; 16]].map(Digest::from_bytes);
        let note: String = digests.iter().map(Digest::to_string).collect();
        assert_eq!(read(&note), digests);
        assert!(read("something else").is_empty());
    }
}
