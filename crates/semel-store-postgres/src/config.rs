//! What can be chosen about a PostgreSQL store, and why one could not be opened.
//!
//! Next: [`crate::store`].

use std::fmt;

use semel::store::Durability;

use crate::address::Address;

/// Where the server is and how it is used.
#[derive(Clone)]
pub struct PostgresConfig {
    pub(crate) address: String,
    pub(crate) durability: Durability,
    pub(crate) migrate: bool,
    pub(crate) writers: usize,
}

/// Without the address, in which a password may be.
impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { durability, migrate, writers, .. } = self;
        f.debug_struct("PostgresConfig")
            .field("durability", durability)
            .field("migrate", migrate)
            .field("writers", writers)
            .finish_non_exhaustive()
    }
}

impl PostgresConfig {
    /// The database at `address`: a URL or `key=value` pairs, as `psql` takes them. Of several hosts the one that takes
    /// writes is used. The tables are looked for along the session's `search_path`.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), durability: Durability::Power, migrate: false, writers: 2 }
    }

    /// Looks at the address without using it.
    ///
    /// # Errors
    /// [`OpenErrorKind::Address`], with what is wrong.
    pub fn check_address(&self) -> Result<(), OpenError> {
        match Address::parse(&self.address) {
            Ok(_) => Ok(()),
            Err(message) => Err(OpenError::new(OpenErrorKind::Address, message)),
        }
    }

    /// What an acknowledged write must survive. Default [`Durability::Power`]: a server whose settings keep less is
    /// refused.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Whether opening makes the tables, or brings them up to date. Default: only when the address says `migrate=true`;
    /// a database without them is refused.
    #[must_use]
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// How many connections claim, and how many others complete. 1 to 16, default 2. The store uses four more.
    #[must_use]
    pub fn writers(mut self, writers: usize) -> Self {
        self.writers = writers.clamp(1, 16);
        self
    }
}

/// Why a store could not be opened. Nothing was changed.
#[derive(Debug)]
pub struct OpenError {
    kind: OpenErrorKind,
    message: String,
}

/// The kinds of [`OpenError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenErrorKind {
    /// The connection string cannot be used.
    Address,
    /// No server that takes writes was reached, or it let nobody in.
    Unreachable,
    /// What stands between takes connections apart into transactions.
    Pooled,
    /// The server's settings keep less than was asked for, or its version or encoding is not one this store works on.
    Settings,
    /// There are no tables yet.
    NotMigrated,
    /// The tables are of something else, or not this role's to use.
    Foreign,
    /// The tables were made by a newer version, whose form this one does not know.
    Newer,
}

impl OpenError {
    pub(crate) fn new(kind: OpenErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn is_unreachable(&self) -> bool {
        self.kind == OpenErrorKind::Unreachable
    }

    /// What stood in the way.
    #[must_use]
    pub fn kind(&self) -> OpenErrorKind {
        self.kind
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for OpenError {}
