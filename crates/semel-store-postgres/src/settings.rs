//! What the server's own settings are worth: refused, or said as a tier.
//!
//! Read on every new connection, because another server may have taken over. Next: [`crate::schema`], which looks at
//! the tables.

use semel::store::{Durability, Survives, Tier};
use tokio_postgres::error::SqlState;

use crate::address::chain;
use crate::config::{OpenError, OpenErrorKind};
use crate::session::Session;

const OLDEST_VERSION: i32 = 150_000;

const READ: &str = "SELECT current_setting('server_version_num')::int4, current_setting('server_version'), \
    pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', current_setting('fsync') = 'on', \
    current_setting('full_page_writes') = 'on', current_setting('synchronous_commit'), \
    current_setting('synchronous_standby_names') <> '', current_setting('server_encoding'), \
    current_setting('autovacuum') = 'on', current_setting('zero_damaged_pages') = 'on', \
    coalesce(current_setting('semel.session', true), '') = 'kept', \
    CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END";

/// What a server said of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    version_number: i32,
    version: String,
    in_recovery: bool,
    read_only: bool,
    fsync: bool,
    full_page_writes: bool,
    synchronous_commit: String,
    has_standby: bool,
    encoding: String,
    autovacuum: bool,
    zero_damaged_pages: bool,
    options_arrived: bool,
    /// Eight hexadecimal digits that grow when a standby takes over.
    pub(crate) timeline: String,
}

impl Server {
    pub(crate) async fn read(session: &Session) -> Result<Self, OpenError> {
        let row = session.client.query_one(READ, &[]).await;
        let row = row.map_err(|error| OpenError::new(OpenErrorKind::Unreachable, chain(&error)))?;
        Ok(Self {
            version_number: row.get(0),
            version: row.get(1),
            in_recovery: row.get(2),
            read_only: row.get(3),
            fsync: row.get(4),
            full_page_writes: row.get(5),
            synchronous_commit: row.get(6),
            has_standby: row.get(7),
            encoding: row.get(8),
            autovacuum: row.get(9),
            zero_damaged_pages: row.get(10),
            options_arrived: row.get(11),
            timeline: row.get(12),
        })
    }

    /// Refuses a server that this store does not work on, or that keeps less than `wanted`.
    pub(crate) fn admit(&self, wanted: Durability) -> Result<(), OpenError> {
        let refuse = |kind, message: String| Err(OpenError::new(kind, message));
        if self.version_number < OLDEST_VERSION {
            return refuse(
                OpenErrorKind::Settings,
                format!("PostgreSQL {} is too old; this store needs version 15 or newer", self.version),
            );
        }
        if !self.options_arrived {
            return refuse(OpenErrorKind::Pooled, POOLED.to_owned());
        }
        if self.in_recovery || self.read_only {
            return refuse(
                OpenErrorKind::Unreachable,
                "this PostgreSQL takes no writes: it is a standby, or default_transaction_read_only is on"
                    .into(),
            );
        }
        if self.encoding != "UTF8" {
            return refuse(
                OpenErrorKind::Settings,
                format!("the database's encoding is {}; this store needs UTF8", self.encoding),
            );
        }
        if self.zero_damaged_pages {
            return refuse(
                OpenErrorKind::Settings,
                "zero_damaged_pages is on: a damaged page would be an absence, and its keys would run again"
                    .into(),
            );
        }
        if self.durability() < wanted {
            let off = |name, on: bool| (!on).then_some(name);
            let lower: Vec<&str> =
                [off("fsync is off", self.fsync), off("full_page_writes is off", self.full_page_writes)]
                    .into_iter()
                    .flatten()
                    .collect();
            return refuse(
                OpenErrorKind::Settings,
                format!(
                    "{}: acknowledged records would not survive a power cut; turn it on, or ask for durability = \
                     \"{}\"",
                    lower.join(" and "),
                    self.durability().as_str()
                ),
            );
        }
        Ok(())
    }

    /// What an acknowledged write on one of our own connections survives.
    pub(crate) fn durability(&self) -> Durability {
        if self.fsync && self.full_page_writes { Durability::Power } else { Durability::Process }
    }

    /// Whether our own connections wait longer at a commit than the server's setting says.
    pub(crate) fn raises_commit(&self) -> bool {
        self.synchronous_commit == "off" || self.has_standby && self.synchronous_commit == "local"
    }

    pub(crate) fn tier(&self) -> Tier {
        let mut tier = Tier::of_process(self.durability());
        tier.server = Some(format!("PostgreSQL {}", self.version));
        if self.durability() < Durability::Power {
            tier.power_cut = Survives::Partly("the whole database may be damaged".into());
        }
        (tier.node_loss, tier.partition) = match (self.has_standby, self.synchronous_commit.as_str()) {
            (false, _) => (Survives::Partly("restore only".into()), Survives::NotApplicable),
            (true, "remote_write") => (
                Survives::Partly("unless the standby loses power at the same time".into()),
                Survives::Partly("stops rather than forks".into()),
            ),
            (true, _) => (Survives::Yes, Survives::Partly("stops rather than forks".into())),
        };
        let mut warn = |when, text: &str| {
            if when {
                tier.warnings.push(text.to_owned());
            }
        };
        warn(!self.fsync, "fsync is off: a power cut may damage the whole database");
        warn(!self.full_page_writes, "full_page_writes is off: a power cut may leave torn pages");
        warn(
            self.raises_commit(),
            "synchronous_commit is lower than on: this store's own connections use on; transactions of callers keep \
             what the server says",
        );
        warn(
            self.synchronous_commit == "remote_write",
            "synchronous_commit is remote_write: the standby has received what is acknowledged, but not flushed it",
        );
        warn(
            !self.has_standby,
            "synchronous_standby_names is empty: a standby that is promoted may lack acknowledged records, whose \
             keys would run again",
        );
        warn(!self.autovacuum, "autovacuum is off: the table grows without end");
        tier
    }
}

const POOLED: &str = "a connection pooler stands between and drops the session's settings; connect to PostgreSQL \
    itself (this store keeps a few connections for all its callers)";

/// Why no connection was made.
pub(crate) fn refused_connection(error: &tokio_postgres::Error) -> OpenError {
    let reason = chain(error);
    if error.code() == Some(&SqlState::PROTOCOL_VIOLATION) && reason.contains("startup parameter") {
        return OpenError::new(OpenErrorKind::Pooled, format!("{POOLED}: {reason}"));
    }
    OpenError::new(OpenErrorKind::Unreachable, format!("PostgreSQL cannot be used: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Server {
        Server {
            version_number: 150_014,
            version: "15.14".into(),
            fsync: true,
            full_page_writes: true,
            synchronous_commit: "on".into(),
            encoding: "UTF8".into(),
            autovacuum: true,
            options_arrived: true,
            timeline: "00000001".into(),
            ..Server::default()
        }
    }

    #[test]
    fn server_too_old_or_of_another_encoding_is_refused() {
        let refused = [
            Server { version_number: 140_009, version: "14.9".into(), ..sound() },
            Server { encoding: "SQL_ASCII".into(), ..sound() },
            Server { zero_damaged_pages: true, ..sound() },
        ];
        for server in refused {
            let error = server.admit(Durability::None).unwrap_err();
            assert_eq!(error.kind(), OpenErrorKind::Settings, "{error}");
        }
        sound().admit(Durability::Power).unwrap();
    }

    #[test]
    fn tier_says_what_a_failover_loses() {
        let alone = sound().tier();
        assert_eq!(alone.node_loss, Survives::Partly("restore only".into()));
        assert_eq!(alone.warnings.len(), 1);
        let paired = Server { has_standby: true, ..sound() }.tier();
        assert_eq!((paired.node_loss, paired.warnings.len()), (Survives::Yes, 0));
        let received =
            Server { has_standby: true, synchronous_commit: "remote_write".into(), ..sound() }.tier();
        assert!(matches!(received.node_loss, Survives::Partly(_)));
    }

    #[test]
    fn a_commit_that_waits_for_too_little_is_raised() {
        for (setting, has_standby, raised) in [
            ("off", false, true),
            ("off", true, true),
            ("local", true, true),
            ("local", false, false),
            ("on", true, false),
        ] {
            let server = Server { synchronous_commit: setting.into(), has_standby, ..sound() };
            assert_eq!(server.raises_commit(), raised, "{setting} {has_standby}");
        }
    }
}
