//! A future that is carried out to its end whether or not its caller waits for it.
//!
//! As a task of its own would be, but without the cost of one while the caller does wait: it runs inside the caller, and
//! moves to a task when the caller goes away. Not for work that should run beside its caller.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The panic that a detached future ended in. It was reported where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it panicked")
    }
}

impl std::error::Error for Panicked {}

/// See the module.
///
/// # Cancellation
/// Dropped before it was polled, nothing of it happens. Dropped later, it goes on in a task of the runtime that it is
/// dropped in; where there is none, it is dropped as well.
#[must_use = "nothing runs before it is awaited"]
pub struct Detached<T: Send + 'static> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    begun: bool,
}

impl<T: Send + 'static> Detached<T> {
    /// Carries out `future` once this is awaited.
    pub fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self { future: Some(Box::pin(future)), begun: false }
    }
}

impl<T: Send + 'static> fmt::Debug for Detached<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detached").field("ended", &self.future.is_none()).finish()
    }
}

impl<T: Send + 'static> Future for Detached<T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.begun = true;
        let Some(future) = &mut self.future else { return Poll::Ready(Err(Panicked)) };
        // A future that panicked is dropped and never looked at again.
        let ended = match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(value)) => Ok(value),
            Err(_) => Err(Panicked),
        };
        self.future = None;
        Poll::Ready(ended)
    }
}

impl<T: Send + 'static> Drop for Detached<T> {
    fn drop(&mut self) {
        if self.begun
            && let Some(future) = self.future.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(future);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_has_begun_ends_without_its_caller() {
        let (go, wait) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let mut detached = Detached::new(async move {
            let _ = wait.await;
            let _ = done.send(());
        });
        tokio::select! {
            biased;
            _ = &mut detached => panic!("it had to wait"),
            () = std::future::ready(()) => {}
        }
        drop(detached);
        go.send(()).unwrap();
        ended.await.unwrap();
    }

    #[tokio::test]
    async fn what_has_not_begun_never_happens() {
        let (done, ended) = oneshot::channel::<()>();
        drop(Detached::new(async move {
            let _ = done.send(());
        }));
        assert!(ended.await.is_err());
    }

    #[tokio::test]
    async fn a_panic_ends_it_and_not_its_caller() {
        assert_eq!(Detached::new(async { panic!("on purpose") }).await, Err::<(), _>(Panicked));
    }
}
