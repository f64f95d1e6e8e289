//! Who waits for a change of which record, in this process. Next: [`crate::bell`], which tells other processes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use semel::digest::Digest;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// The watchers of all records.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<HashMap<Digest, Arc<Notify>>>);

/// One watcher. Leaves nothing behind when dropped.
pub(crate) struct Watch {
    digest: Digest,
    watchers: Arc<Watchers>,
    notify: Arc<Notify>,
    notified: std::pin::Pin<Box<OwnedNotified>>,
}

impl Watchers {
    /// Watches from now on: what is written after this call is noticed.
    pub(crate) fn register(self: &Arc<Self>, digest: Digest) -> Watch {
        let notify = Arc::clone(self.all().entry(digest).or_default());
        let mut notified = Box::pin(Arc::clone(&notify).notified_owned());
        notified.as_mut().enable();
        Watch { digest, watchers: Arc::clone(self), notify, notified }
    }

    pub(crate) fn wake<'a>(&self, written: impl Iterator<Item = &'a Digest>) {
        let mut all = self.all();
        if all.is_empty() {
            return;
        }
        for digest in written {
            if let Some(notify) = all.remove(digest) {
                notify.notify_waiters();
            }
        }
    }

    /// Wakes everybody, who then look for themselves.
    pub(crate) fn wake_all(&self) {
        for (_, notify) in self.all().drain() {
            notify.notify_waiters();
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Resolves once; a wait that was given up may be taken up again.
    pub(crate) async fn wait(&mut self) {
        self.notified.as_mut().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A `notified` holds its `Notify` too: the map, this watch's two, and nobody else.
        const LAST: usize = 3;
        let mut all = self.watchers.all();
        let mine = all.get(&self.digest).is_some_and(|notify| Arc::ptr_eq(notify, &self.notify));
        if mine && Arc::strong_count(&self.notify) <= LAST {
            all.remove(&self.digest);
        }
    }
}
