//! What a server says about itself, and what follows: whether it is refused, and what an acknowledged write survives.
//!
//! Pure but for [`Server::ask`]. Next: `open`, which asks every server of a Cluster.

use std::collections::HashMap;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use semel::store::{Durability, Survives, Tier};

use crate::config::{Fsync, OpenError, OpenErrorKind, RedisConfig};

/// The first release with sharded channels and scripts whose errors keep their code.
const MAJOR_MIN: u32 = 7;

const SETTINGS: [&str; 6] = [
    "appendfsync",
    "maxmemory-policy",
    "maxmemory",
    "no-appendfsync-on-rewrite",
    "cluster-require-full-coverage",
    "min-replicas-to-write",
];

/// What one server said.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) addr: String,
    info: HashMap<String, String>,
    /// Empty where CONFIG is forbidden.
    settings: HashMap<String, String>,
}

impl Server {
    /// Asks a server about itself. Not being let read its settings is no error here.
    pub(crate) async fn ask(addr: &str, connection: &mut MultiplexedConnection) -> RedisResult<Self> {
        let info: String = redis::cmd("INFO").query_async(connection).await?;
        let settings = redis::cmd("CONFIG").arg("GET").arg(&SETTINGS).query_async(connection).await;
        Ok(Self { addr: addr.to_owned(), info: fields(&info), settings: settings.unwrap_or_default() })
    }

    fn info(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> usize {
        self.info(name).parse().unwrap_or(0)
    }

    pub(crate) fn is_master(&self) -> bool {
        self.info("role") == "master"
    }

    fn policy(&self) -> &str {
        // INFO has it too, and is rarely forbidden.
        match self.setting("maxmemory-policy") {
            "" => self.info("maxmemory_policy"),
            policy => policy,
        }
    }

    fn fsync(&self, config: &RedisConfig) -> Option<Fsync> {
        Fsync::from_text(self.setting("appendfsync")).or(config.appendfsync)
    }

    /// Why a server of this kind cannot be used, whatever it keeps.
    pub(crate) fn refuse_kind(&self, config: &RedisConfig) -> Result<(), OpenError> {
        let refuse = |kind, why: String| Err(OpenError::new(kind, &self.addr, why));
        if self.info("loading") == "1" {
            let why = "it is still reading its data; start again when it has";
            return refuse(OpenErrorKind::NotReady, why.to_owned());
        }
        let version = self.info("redis_version");
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < MAJOR_MIN) {
            return refuse(
                OpenErrorKind::TooOld,
                format!("it is Redis {version}; semel needs {MAJOR_MIN}.0 or newer"),
            );
        }
        match (self.info("redis_mode"), config.cluster) {
            ("cluster", false) => refuse(
                OpenErrorKind::Mode,
                "it is a node of a Redis Cluster; name it redis-cluster:// (or rediss-cluster://)".to_owned(),
            ),
            ("standalone", true) => refuse(
                OpenErrorKind::Mode,
                "it is one server and no Cluster; name it redis:// (or rediss://)".to_owned(),
            ),
            ("sentinel", _) => refuse(
                OpenErrorKind::Mode,
                "it is a Sentinel; name the server that it watches, or a Cluster".to_owned(),
            ),
            (_, false) if !self.is_master() => refuse(
                OpenErrorKind::Replica,
                format!(
                    "it is a read-only replica of {}:{}; name the master",
                    self.info("master_host"),
                    self.info("master_port")
                ),
            ),
            _ => Ok(()),
        }
    }

    /// Why its settings are refused.
    pub(crate) fn refuse_settings(&self, config: &RedisConfig) -> Result<(), OpenError> {
        let refuse = |kind, why: String| Err(OpenError::new(kind, &self.addr, why));
        let all_the_same = "; or accept the loss with durability=none in the store's URL";
        if config.lossy {
            return Ok(());
        }
        match self.policy() {
            "noeviction" => {}
            "" => {
                return refuse(
                    OpenErrorKind::SettingsUnreadable,
                    format!("it does not say its maxmemory-policy: allow this user INFO{all_the_same}"),
                );
            }
            policy => {
                return refuse(
                    OpenErrorKind::Evicts,
                    format!(
                        "maxmemory-policy is {policy}: when memory is full, live records are thrown away and their \
                         keys run again; set it to noeviction{all_the_same}"
                    ),
                );
            }
        }
        if self.info("aof_enabled") != "1" {
            return refuse(
                OpenErrorKind::NotPersistent,
                format!("appendonly is no: every record is gone when it ends; set it to yes{all_the_same}"),
            );
        }
        if self.fsync(config).is_none() {
            return refuse(
                OpenErrorKind::SettingsUnreadable,
                format!(
                    "it does not let its settings be read, so that nobody knows what a power cut loses: allow this \
                     user CONFIG GET, or say appendfsync=always, everysec or no in the store's URL{all_the_same}"
                ),
            );
        }
        Ok(())
    }

    /// Why it cannot confirm writes by as many replicas as wanted, or refuses writes now.
    pub(crate) fn refuse_state(&self, config: &RedisConfig) -> Result<(), OpenError> {
        let refuse = |kind, why: String| Err(OpenError::new(kind, &self.addr, why));
        let replicas = self.number("connected_slaves");
        if self.is_master() && replicas < config.wait_replicas {
            return refuse(
                OpenErrorKind::TooFewReplicas,
                format!(
                    "wait_replicas is {}, and it has {replicas} connected replicas",
                    config.wait_replicas
                ),
            );
        }
        if self.info("aof_enabled") == "1" && self.info("aof_last_write_status") == "err" {
            return refuse(
                OpenErrorKind::RefusesWrites,
                "its last write to the append-only file failed; see its disk and its log".to_owned(),
            );
        }
        Ok(())
    }

    pub(crate) fn durability(&self, config: &RedisConfig) -> Durability {
        if self.policy() != "noeviction" || self.info("aof_enabled") != "1" {
            return Durability::None;
        }
        match self.fsync(config) {
            Some(Fsync::Always) if self.setting("no-appendfsync-on-rewrite") != "yes" => Durability::Power,
            _ => Durability::Process,
        }
    }

    pub(crate) fn version(&self) -> String {
        match self.info("valkey_version") {
            "" => format!("Redis {}", self.info("redis_version")),
            valkey => format!("Valkey {valkey}"),
        }
    }

    /// What an operator should know and need not change.
    pub(crate) fn notes(&self, config: &RedisConfig) -> Vec<String> {
        let mut notes = Vec::new();
        let policy = self.policy();
        if policy != "noeviction" {
            notes.push(format!(
                "maxmemory-policy is {policy}: live records are thrown away when memory is full"
            ));
        } else if self.number("maxmemory") > 0 {
            let mib = self.number("maxmemory") >> 20;
            notes.push(format!("maxmemory is {mib} MiB: when it is reached, new keys are refused with 503"));
        }
        match (self.info("aof_enabled"), self.fsync(config)) {
            ("1", Some(Fsync::Everysec)) => {
                notes.push(
                    "appendfsync is everysec: a power cut loses up to 2 s of acknowledged writes".to_owned(),
                );
            }
            ("1", Some(Fsync::No)) => notes.push(
                "appendfsync is no: a power cut loses what the system had not written yet, often 30 s"
                    .to_owned(),
            ),
            ("1", _) => {}
            _ => notes.push("appendonly is no: every record is gone when the server ends".to_owned()),
        }
        if self.setting("no-appendfsync-on-rewrite") == "yes" && self.info("aof_enabled") == "1" {
            notes.push(
                "no-appendfsync-on-rewrite is yes: while the append-only file is rewritten, nothing is synced".to_owned(),
            );
        }
        if self.settings.is_empty() {
            notes.push(
                "CONFIG is forbidden for this user: what appendfsync is was taken from the URL".to_owned(),
            );
        }
        if self.setting("cluster-require-full-coverage") == "no" && config.cluster {
            notes.push(
                "cluster-require-full-coverage is no: when a shard is gone, keys of the other shards go on"
                    .to_owned(),
            );
        }
        if self.is_master() && self.number("connected_slaves") == 0 {
            notes.push(if config.cluster {
                "it has no replica: when it is gone, its share of the keys is unavailable".to_owned()
            } else {
                "it has no replica: when it is gone, so is the store".to_owned()
            });
        }
        notes
    }
}

/// What an acknowledged write survives on these servers: on the weakest of them.
pub(crate) fn tier(servers: &[Server], config: &RedisConfig) -> Tier {
    let durability = servers.iter().map(|server| server.durability(config)).min().unwrap_or(Durability::None);
    let fsync = servers.iter().filter_map(|server| server.fsync(config)).min();
    let replicated = servers
        .iter()
        .filter(|server| server.is_master())
        .all(|master| master.number("connected_slaves") > 0);
    let (mut process_kill, mut power_cut) = match (durability, fsync) {
        (Durability::None, _) => (Survives::No, Survives::No),
        (Durability::Power, _) => (Survives::Yes, Survives::Yes),
        (_, Some(Fsync::No)) => {
            (Survives::Yes, Survives::Partly("what was not written yet lost, often 30 s".into()))
        }
        _ => (Survives::Yes, Survives::Partly("up to 2 s lost".into())),
    };
    let waits = config.wait_replicas > 0;
    let (node_loss, partition) = match (config.cluster, replicated) {
        (_, false) => (Survives::No, Survives::NotApplicable),
        (true, true) if waits => {
            let often = "usually; no guarantee, even though replicas confirm each write";
            (Survives::Partly(often.into()), Survives::Partly("no guarantee".into()))
        }
        (true, true) => (
            Survives::Partly("what the replicas had not received lost".into()),
            Survives::Partly("a key can be claimed twice for up to the node timeout".into()),
        ),
        (false, true) if waits => (
            Survives::Partly("usually, when a replica is promoted".into()),
            Survives::Partly("no guarantee".into()),
        ),
        (false, true) => (Survives::No, Survives::NotApplicable),
    };
    // A master that ends is replaced, whatever is on its disk.
    if config.cluster && replicated && durability > Durability::None {
        process_kill = node_loss.clone();
        power_cut = node_loss.clone();
    }
    let mut warnings: Vec<String> = Vec::new();
    for server in servers {
        for note in server.notes(config) {
            let same = warnings.iter().any(|known| known.ends_with(&note));
            if !same {
                warnings.push(if config.cluster { format!("{}: {note}", server.addr) } else { note });
            }
        }
    }
    let versions = servers.first().map(Server::version);
    let server = versions.map(|version| if config.cluster { format!("{version} Cluster") } else { version });
    Tier { server, process_kill, power_cut, node_loss, partition, warnings }
}

/// The fields of INFO.
fn fields(info: &str) -> HashMap<String, String> {
    let lines = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(info: &str) -> Server {
        Server { addr: "db:6379".to_owned(), info: fields(info), settings: HashMap::new() }
    }

    #[test]
    fn a_server_that_is_too_old_is_refused_with_its_version() {
        let config = RedisConfig::from_url("redis://db").unwrap();
        for version in ["6.2.14", "5.0.0", "", "unstable"] {
            let info = format!("redis_version:{version}\r\nredis_mode:standalone\r\nrole:master\r\n");
            let error = server(&info).refuse_kind(&config).unwrap_err();
            assert_eq!(error.kind(), OpenErrorKind::TooOld);
            assert!(error.to_string().contains(version));
        }
        for version in ["7.0.15", "8.2.0", "10.0.1"] {
            let info = format!("redis_version:{version}\r\nredis_mode:standalone\r\nrole:master\r\n");
            assert!(server(&info).refuse_kind(&config).is_ok(), "{version}");
        }
    }

    #[test]
    fn a_server_that_says_nothing_is_refused_as_unreadable() {
        let config = RedisConfig::from_url("redis://db").unwrap();
        let error = server("").refuse_settings(&config).unwrap_err();
        assert_eq!(error.kind(), OpenErrorKind::SettingsUnreadable);
    }
}
