//! Looking again, while the store is used: a server that was restarted without its data, or set otherwise, shows in
//! the tier and in the log.
//!
//! It changes nothing but the markers that are missing. Next: `open`, which looks for the first time.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::{RedisResult, Value};
use semel::store::Tier;
use tokio::task::AbortHandle;

use crate::config::{OpenError, RedisConfig};
use crate::link::Link;
use crate::{open, server};

/// Enough that each of up to some ten shards has several.
const CLUSTER_MARKERS: usize = 64;

/// How long a server that was set otherwise can stay unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The markers of one store: keys that are written when it is begun, so that a server without them is known to have
/// lost its data.
#[derive(Clone, Debug)]
pub(crate) struct Markers {
    pub(crate) link: Link,
    pub(crate) prefix: String,
}

impl Markers {
    pub(crate) fn count(&self) -> usize {
        if self.link.is_cluster() { CLUSTER_MARKERS } else { 1 }
    }

    /// Writes those that are missing, and returns how many they were.
    pub(crate) async fn write(&self) -> RedisResult<usize> {
        let mut missing = 0;
        for n in 0..self.count() {
            let mut cmd = redis::cmd("SET");
            let key = format!("{}:store:{n}", self.prefix);
            cmd.arg(key).arg(format!("semel 1 {}", uuid::Uuid::new_v4())).arg("NX");
            missing += usize::from(self.link.send(&cmd).await? != Value::Nil);
        }
        Ok(missing)
    }
}

/// Looks until it is dropped.
#[derive(Debug)]
pub(crate) struct Upkeep(AbortHandle);

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Upkeep {
    /// `always` is said of the store whatever is found.
    pub(crate) fn start(
        config: RedisConfig,
        markers: Markers,
        always: Option<String>,
        tier: Arc<RwLock<Tier>>,
    ) -> Self {
        let looking = tokio::spawn(async move {
            let (mut refused, mut lost) = (None, None);
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                if let Ok(missing @ 1..) = markers.write().await {
                    let text = format!(
                        "{missing} of {} parts of the prefix {} lost their records while this process used them; \
                         keys that were answered there run again",
                        markers.count(),
                        markers.prefix
                    );
                    tracing::error!("{text}");
                    lost = Some(text);
                }
                let Ok(servers) = open::survey(&config).await else { continue };
                let refusal = servers.iter().find_map(|server| server.refuse_settings(&config).err());
                let refusal = refusal.as_ref().map(OpenError::to_string);
                if let Some(text) = refusal.as_ref().filter(|_| refusal != refused) {
                    tracing::error!("a server was set otherwise since the store was opened: {text}");
                }
                refused.clone_from(&refusal);
                let mut now = server::tier(&servers, &config);
                now.warnings.extend(refusal.into_iter().chain(lost.clone()).chain(always.clone()));
                *tier.write().unwrap_or_else(PoisonError::into_inner) = now;
            }
        });
        Self(looking.abort_handle())
    }
}
