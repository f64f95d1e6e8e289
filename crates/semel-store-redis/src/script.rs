//! The script: every step, called by its digest and sent whole when a server does not know it.
//!
//! A server that answers NOSCRIPT has done nothing, so that sending again is safe. Next: `scripts/record.lua`, with which
//! it begins, a file for each [`Kind`] of step, and `scripts/each.lua`, with which it ends.

use redis::Cmd;

/// What a step does with its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Claim,
    Renew,
    Complete,
    Doubt,
    Release,
    Import,
    Get,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::Claim, Self::Renew, Self::Complete, Self::Doubt, Self::Release, Self::Import, Self::Get];

    /// As the script is told it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Renew => "renew",
            Self::Complete => "complete",
            Self::Doubt => "doubt",
            Self::Release => "release",
            Self::Import => "import",
            Self::Get => "get",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Claim => include_str!("../scripts/claim.lua"),
            Self::Renew => include_str!("../scripts/renew.lua"),
            Self::Complete => include_str!("../scripts/complete.lua"),
            Self::Doubt => include_str!("../scripts/doubt.lua"),
            Self::Release => include_str!("../scripts/release.lua"),
            Self::Import => include_str!("../scripts/import.lua"),
            Self::Get => include_str!("../scripts/get.lua"),
        }
    }
}

/// The script and its digest.
#[derive(Debug)]
pub(crate) struct Script {
    text: String,
    sha: String,
}

impl Script {
    /// `sharded`: as in a Cluster, where a message stays with the shard. `replicated`: replicas are waited for.
    pub(crate) fn new(sharded: bool, replicated: bool) -> Self {
        let (publish, numsub) = if sharded { ("SPUBLISH", "SHARDNUMSUB") } else { ("PUBLISH", "NUMSUB") };
        let mut text = format!("local PUBLISH, NUMSUB, REPLICATED = '{publish}', '{numsub}', {replicated}\n");
        text.push_str(include_str!("../scripts/record.lua"));
        for kind in Kind::ALL {
            let (name, step) = (kind.name(), kind.text());
            text.push_str(&format!("do\n{step}steps.{name} = step\nend\n"));
        }
        text.push_str(include_str!("../scripts/each.lua"));
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
