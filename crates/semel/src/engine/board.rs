//! A value that many wait at, woken in the order in which they came.
//!
//! Not `tokio::sync::watch`, which spreads its waiters at random over several lists: the same callers in the same order
//! must end the same way, or a simulation cannot be repeated. Next: [`super::wait`], which posts the phases of a flight.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The value, how often it changed, and who waits for the next change.
#[derive(Debug)]
pub(super) struct Board<T> {
    posted: Mutex<Posted<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct Posted<T> {
    value: T,
    changes: u64,
}

/// The value as it stands. Nobody changes it while this is held.
pub(super) struct Shown<'a, T>(MutexGuard<'a, Posted<T>>);

impl<T> Board<T> {
    pub(super) fn new(value: T) -> Self {
        Self { posted: Mutex::new(Posted { value, changes: 0 }), changed: Notify::new() }
    }

    pub(super) fn look(&self) -> Shown<'_, T> {
        Shown(self.posted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the value as `change` does, which says whether it has; tells the waiters, when it `wakes` them.
    pub(super) fn change_if(&self, wakes: bool, change: impl FnOnce(&mut T) -> bool) -> bool {
        let mut posted = self.look();
        let changed = change(&mut posted.0.value);
        if changed {
            posted.0.changes += 1;
            drop(posted);
            if wakes {
                self.changed.notify_waiters();
            }
        }
        changed
    }

    /// Resolves once the value has changed more than `seen` times.
    pub(super) async fn changed(&self, seen: u64) {
        loop {
            // Made before the look: from here on no change is missed.
            let notified = self.changed.notified();
            if self.look().changes() > seen {
                return;
            }
            notified.await;
        }
    }
}

impl<T> Shown<'_, T> {
    pub(super) fn changes(&self) -> u64 {
        self.0.changes
    }
}

impl<T> Deref for Shown<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn set(board: &Board<i32>, to: i32) {
        board.change_if(true, |value| {
            *value = to;
            true
        });
    }

    #[tokio::test]
    async fn waiters_are_woken_in_the_order_in_which_they_came() {
        let board = Arc::new(Board::new(0));
        let woken = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = (0..50)
            .map(|waiter| {
                let (board, woken) = (Arc::clone(&board), Arc::clone(&woken));
                tokio::spawn(async move {
                    board.changed(0).await;
                    woken.lock().unwrap().push(waiter);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        set(&board, 1);
        for waiter in waiting {
            waiter.await.unwrap();
        }
        assert_eq!(*woken.lock().unwrap(), (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_change_between_the_look_and_the_wait_is_not_missed() {
        let board = Board::new(0);
        let seen = board.look().changes();
        set(&board, 1);
        board.changed(seen).await;
        assert_eq!(*board.look(), 1);
    }
}
