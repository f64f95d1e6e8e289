//! The scripts: one for each step, called by their digest and sent whole when a server does not know them.
//!
//! A server that answers NOSCRIPT has done nothing, so that sending again is safe. Next: `scripts/record.lua`, which
//! each of them begins with, and `scripts/each.lua`, with which each ends.

use std::sync::Arc;

use redis::Cmd;

/// A script and its digest.
#[derive(Debug)]
pub(crate) struct Script {
    text: String,
    sha: String,
}

impl Script {
    fn new(prelude: &str, step: &str) -> Self {
        let (record, each) = (include_str!("../scripts/record.lua"), include_str!("../scripts/each.lua"));
        let text = format!("{prelude}{record}{step}{each}");
        let sha = redis::Script::new(&text).get_hash().to_owned();
        Self { text, sha }
    }

    /// The call by digest at `keys`, whose arguments are still to be added.
    pub(crate) fn call<'a>(&self, keys: impl ExactSizeIterator<Item = &'a [u8]>) -> Cmd {
        begin("EVALSHA", &self.sha, keys)
    }

    /// The call with the whole text.
    pub(crate) fn call_whole<'a>(&self, keys: impl ExactSizeIterator<Item = &'a [u8]>) -> Cmd {
        begin("EVAL", &self.text, keys)
    }
}

fn begin<'a>(command: &str, script: &str, keys: impl ExactSizeIterator<Item = &'a [u8]>) -> Cmd {
    let mut cmd = redis::cmd(command);
    cmd.arg(script).arg(keys.len());
    keys.for_each(|key| {
        cmd.arg(key);
    });
    cmd
}

/// The scripts of one store.
#[derive(Debug)]
pub(crate) struct Scripts {
    pub(crate) claim: Arc<Script>,
    pub(crate) renew: Arc<Script>,
    pub(crate) complete: Arc<Script>,
    pub(crate) doubt: Arc<Script>,
    pub(crate) release: Arc<Script>,
    pub(crate) import: Arc<Script>,
    pub(crate) get: Arc<Script>,
}

impl Scripts {
    /// `sharded`: as in a Cluster, where a message stays with the shard. `replicated`: replicas are waited for.
    pub(crate) fn new(sharded: bool, replicated: bool) -> Self {
        let (publish, numsub) = if sharded { ("SPUBLISH", "SHARDNUMSUB") } else { ("PUBLISH", "NUMSUB") };
        let prelude = format!("local PUBLISH, NUMSUB, REPLICATED = '{publish}', '{numsub}', {replicated}\n");
        let script = |step| Arc::new(Script::new(&prelude, step));
        Self {
            claim: script(include_str!("../scripts/claim.lua")),
            renew: script(include_str!("../scripts/renew.lua")),
            complete: script(include_str!("../scripts/complete.lua")),
            doubt: script(include_str!("../scripts/doubt.lua")),
            release: script(include_str!("../scripts/release.lua")),
            import: script(include_str!("../scripts/import.lua")),
            get: script(include_str!("../scripts/get.lua")),
        }
    }
}
