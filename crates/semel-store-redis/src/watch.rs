//! Who waits for a change of which record, and the channels on which the script tells of changes.
//!
//! A channel has the name of the record's key, so that in a Cluster it is where the record is. The script publishes
//! only where somebody has subscribed. Messages can be lost; whoever waits also polls.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{PushInfo, PushKind, Value};
use semel::digest::Digest;
use tokio::sync::watch::{Receiver, Sender};

use crate::link::Link;

/// The watchers of all records.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    /// Dropping a sender wakes all who have its receivers.
    waiting: Mutex<HashMap<Digest, Sender<()>>>,
    subscribed: tokio::sync::Mutex<HashSet<Digest>>,
}

/// One watcher.
pub(crate) struct Watch {
    digest: Digest,
    receiver: Option<Receiver<()>>,
    watchers: Arc<Watchers>,
    link: Link,
    channel: Vec<u8>,
}

impl Watchers {
    /// Watches from now on what this process writes, and after [`Watch::subscribe`] also what others do.
    pub(crate) fn register(self: &Arc<Self>, link: &Link, channel: Vec<u8>, digest: Digest) -> Watch {
        let receiver = self.waiting().entry(digest).or_insert_with(|| Sender::new(())).subscribe();
        Watch { digest, receiver: Some(receiver), watchers: Arc::clone(self), link: link.clone(), channel }
    }

    pub(crate) fn wake(&self, digest: &Digest) {
        self.waiting().remove(digest);
    }

    /// Takes what a server sent without being asked.
    pub(crate) fn hear(&self, info: &PushInfo) {
        match info.kind {
            PushKind::Message | PushKind::SMessage => {
                if let Some(Value::BulkString(channel)) = info.data.first()
                    && let Some(digest) = digest_of(channel)
                {
                    self.wake(&digest);
                }
            }
            // What was published meanwhile is lost.
            PushKind::Disconnection => self.waiting().clear(),
            _ => {}
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Digest, Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the channel back unless somebody waits for it again.
    async fn unsubscribe(&self, link: &Link, channel: &[u8], digest: Digest) {
        let mut subscribed = self.subscribed.lock().await;
        if !self.waiting().contains_key(&digest) && subscribed.remove(&digest) {
            // A channel too many costs the server some bytes until the connection ends.
            let _ = link.unsubscribe(channel).await;
        }
    }
}

/// The digest at the end of a key.
fn digest_of(key: &[u8]) -> Option<Digest> {
    let hex = std::str::from_utf8(key.get(key.len().checked_sub(32)?..)?).ok()?;
    u128::from_str_radix(hex, 16).ok().map(|number| Digest::from_bytes(number.to_be_bytes()))
}

impl Watch {
    /// Hears from now on what others publish. Where that fails, only polling sees their changes.
    pub(crate) async fn subscribe(&self) {
        let mut subscribed = self.watchers.subscribed.lock().await;
        if !subscribed.contains(&self.digest) && self.link.subscribe(&self.channel).await.is_ok() {
            subscribed.insert(self.digest);
        }
    }

    pub(crate) async fn wait(mut self) {
        if let Some(receiver) = &mut self.receiver {
            // An error is the wake: the sender was dropped.
            let _ = receiver.changed().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.receiver = None;
        let mut waiting = self.watchers.waiting();
        if waiting.get(&self.digest).is_some_and(|sender| sender.receiver_count() == 0) {
            waiting.remove(&self.digest);
        }
        if waiting.contains_key(&self.digest) {
            return;
        }
        drop(waiting);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (watchers, link, digest) = (Arc::clone(&self.watchers), self.link.clone(), self.digest);
            let channel = std::mem::take(&mut self.channel);
            runtime.spawn(async move { watchers.unsubscribe(&link, &channel, digest).await });
        }
    }
}
