//! Transactional mode: the record in the caller's own transaction, so that effect and record are committed together or
//! not at all. **Exactly once, when the effect is SQL in the same database, the transaction is `READ COMMITTED` or
//! stricter, and the server keeps what it commits.**
//!
//! There is no lease and no second connection: until the transaction commits nobody sees the record, and the unique
//! index makes a duplicate wait inside a savepoint, up to `lock_timeout`, until the first has committed or rolled back.
//! Whatever [`begin`] answers, the caller's transaction can go on. The records are those of a [`crate::PostgresStore`]
//! in the same schema, made by [`crate::PostgresStore::migrate`].
//!
//! ```no_run
//! use std::time::Duration;
//! use semel::{Fingerprint, Key, Operation, Outcome, RecordId, Tenant, fingerprint};
//! use semel_store_postgres::transaction::{self, Begun, Options};
//!
//! # async fn charge(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let id = RecordId::new(Tenant::public(), Operation::new("charge"), Key::new("order-42")?);
//! let request = Fingerprint {
//!     target: fingerprint::target("POST", "/charges", None),
//!     payload: fingerprint::payload(b"100", &Default::default()),
//! };
//! let mut tx = client.transaction().await?;
//! let receipt = match transaction::begin(&mut tx, &id, request, Options::default()).await? {
//!     Begun::Run(claim) => {
//!         tx.execute("INSERT INTO charges VALUES (100)", &[]).await?;
//!         let receipt = Outcome { code: 201, body: "receipt 7".into(), body_kept: true, ..Outcome::default() };
//!         claim.complete(&mut tx, &receipt, Duration::from_secs(24 * 3600)).await?;
//!         receipt
//!     }
//!     Begun::Replay(receipt) => receipt,
//!     other => return Err(format!("not charged: {other:?}").into()),
//! };
//! tx.commit().await?;
//! # let _ = receipt;
//! # Ok(()) }
//! ```

mod driver;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use semel::digest::Digest;
use semel::fingerprint::Difference;
use semel::policy::OnMismatch;
use semel::record::AttemptId;
use semel::{Fingerprint, Outcome, Policy, RecordId};
use uuid::Uuid;

use crate::codec::{self, clock, dead, doubted};
use driver::{Driver, Refusal, Value};

const LOCK_NOT_AVAILABLE: &str = "55P03";
const SERIALIZATION_FAILURE: &str = "40001";
const DEADLOCK_DETECTED: &str = "40P01";

/// How often a record is decided anew that changes while it is looked at.
const ROUNDS: usize = 8;

const WAIT: &str = "SELECT before.setting, set_config('lock_timeout', $1, true) \
    FROM (SELECT current_setting('lock_timeout') AS setting) AS before";

/// Lapsed from the start: a transaction that commits the effect without completing it leaves a doubt.
const INSERT: &str = concat!(
    "WITH ",
    clock!(),
    " INSERT INTO semel_records AS r (digest, tenant, operation, key, variant, target, payload, attempt, token, \
      generation, state, claimed_us, lease_us, execute_us, doubt_retention_us) \
      SELECT $1, $2, $3, $4, $5, $6, $7, $8, clock.token_floor + nextval('semel_tokens'), 1, 0, clock.now_us, \
      clock.now_us, clock.now_us, $9 FROM clock ON CONFLICT (digest) DO NOTHING RETURNING r.token"
);

const FIND: &str = concat!(
    "WITH ",
    clock!(),
    " SELECT r.token, r.attempt, r.target, r.payload, CASE WHEN ",
    dead!(),
    " THEN 4 WHEN ",
    doubted!(),
    " THEN 1 ELSE r.state END::bigint, r.tenant = $2 AND r.operation = $3 AND r.key = $4 AND \
      r.variant IS NOT DISTINCT FROM $5, r.code::bigint, coalesce(r.body_kept, false), r.head, r.body \
      FROM clock, semel_records AS r WHERE r.digest = $1"
);

const TAKE: &str = concat!(
    "WITH ",
    clock!(),
    " UPDATE semel_records AS r SET target = $4, payload = $5, attempt = $6, \
      token = greatest(clock.token_floor + nextval('semel_tokens'), r.token + 1), generation = 1, state = 0, \
      claimed_us = clock.now_us, lease_us = clock.now_us, execute_us = clock.now_us, doubt_retention_us = $7, \
      settled_us = NULL, expires_us = NULL, code = NULL, cause = NULL, body_kept = NULL, head = NULL, body = NULL \
      FROM clock WHERE r.digest = $1 AND r.token = $2 AND r.attempt = $3 AND ",
    dead!(),
    " RETURNING r.token"
);

const COMPLETE: &str = concat!(
    "WITH ",
    clock!(),
    " UPDATE semel_records AS r SET state = 2, settled_us = clock.now_us, expires_us = clock.now_us + $4, \
      code = $5::bigint::integer, body_kept = $6, head = $7, body = $8, lease_us = NULL, execute_us = NULL \
      FROM clock WHERE r.digest = $1 AND r.token = $2 AND r.attempt = $3 AND r.state = 0 RETURNING r.token"
);

/// A transaction of the caller: of `tokio-postgres`, or with the feature `sqlx` of sqlx.
pub trait CallersTransaction: Driver {}

impl<T: Driver> CallersTransaction for T {}

/// How a transaction is begun.
#[derive(Clone, Debug)]
pub struct Options {
    on_mismatch: OnMismatch,
    lock_timeout: Duration,
}

impl Default for Options {
    /// Another payload is refused; a duplicate waits for 5 s.
    fn default() -> Self {
        Self { on_mismatch: OnMismatch::Reject, lock_timeout: Duration::from_secs(5) }
    }
}

impl Options {
    /// What a repeated key with another payload gets. Default [`OnMismatch::Reject`].
    #[must_use]
    pub fn on_mismatch(mut self, on_mismatch: OnMismatch) -> Self {
        self.on_mismatch = on_mismatch;
        self
    }

    /// How long a duplicate waits for the transaction of the first. 1 ms to 24 days, default 5 s.
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }
}

/// What [`begin`] found. All but the first have changed nothing, and the transaction can go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Begun {
    /// Nobody has completed this key: run the effect in this transaction, then [`Claim::complete`] it.
    Run(Claim),
    /// The effect has happened; this is its outcome.
    Replay(Outcome),
    /// The effect ended in a terminal error; this is it.
    Failed(Outcome),
    /// The key was used for another request, whose outcome is not shown.
    Mismatch(Difference),
    /// Somebody else runs it: another transaction that did not end in time, or a claim of the store.
    InProgress,
    /// Somebody else has run it, and nobody knows how it ended. Only where a store's claim died, or a transaction
    /// committed without completing.
    InDoubt,
}

/// The right to run the effect in the transaction it was begun in.
#[derive(Debug)]
#[must_use = "a transaction that commits without completing leaves a doubt"]
pub struct Claim {
    id: RecordId,
    token: i64,
    attempt: AttemptId,
}

/// Decides whether the effect of `id` runs in `tx`.
///
/// # Errors
/// What PostgreSQL says, and that the record found is another's. The transaction can go on unless its connection is
/// lost; see [`TransactionError::is_retryable`].
///
/// # Cancellation
/// Dropped half-way, `tx` has to be rolled back.
pub async fn begin(
    tx: &mut impl CallersTransaction,
    id: &RecordId,
    fingerprint: Fingerprint,
    options: Options,
) -> Result<Begun, TransactionError> {
    tx.run("SAVEPOINT semel").await?;
    match decide(tx, id, fingerprint, &options).await {
        Ok(begun) => {
            tx.run("RELEASE SAVEPOINT semel").await?;
            Ok(begun)
        }
        Err(error) => {
            tx.run("ROLLBACK TO SAVEPOINT semel").await?;
            tx.run("RELEASE SAVEPOINT semel").await?;
            if error.is(LOCK_NOT_AVAILABLE) { Ok(Begun::InProgress) } else { Err(error) }
        }
    }
}

async fn decide(
    tx: &mut impl Driver,
    id: &RecordId,
    fingerprint: Fingerprint,
    options: &Options,
) -> Result<Begun, TransactionError> {
    let wait = format!("{}ms", options.lock_timeout.as_millis().max(1));
    let before = tx.rows(WAIT, &[Value::Text(wait)], "tt").await?;
    let mut begun = None;
    for _ in 0..ROUNDS {
        begun = look(tx, id, fingerprint, options).await?;
        if begun.is_some() {
            break;
        }
    }
    // What the caller had holds again for the rest of the transaction.
    if let Some(Value::Text(before)) = before.into_iter().flatten().next() {
        tx.rows(WAIT, &[Value::Text(before)], "tt").await?;
    }
    begun.ok_or_else(|| TransactionError::damaged("the record kept changing"))
}

/// Inserts, or says what stands; `None` when what stood has changed meanwhile.
async fn look(
    tx: &mut impl Driver,
    id: &RecordId,
    fingerprint: Fingerprint,
    options: &Options,
) -> Result<Option<Begun>, TransactionError> {
    let attempt = AttemptId::fresh();
    let doubt_retention = Value::Number(Some(codec::micros(Policy::default().doubt_retention)));
    let (target, payload) = (codec::uuid(fingerprint.target), codec::uuid(fingerprint.payload));
    let claim = |token| Begun::Run(Claim { id: id.clone(), token, attempt });
    let mut values = identity(id);
    values.extend([target, payload, codec::attempt(attempt)].map(|uuid| Value::Uuid(Some(uuid))));
    values.push(doubt_retention.clone());
    if let Some([Value::Number(Some(token))]) =
        tx.rows(INSERT, &values, "n").await?.first().map(Vec::as_slice)
    {
        return Ok(Some(claim(*token)));
    }
    let found = tx.rows(FIND, &identity(id), "nuuunfnfbb").await?;
    let Some(Standing { seen, claimed, state, outcome }) =
        found.into_iter().next().map(Standing::read).transpose()?
    else {
        return Ok(None);
    };
    if state == codec::RELEASED {
        let mut values = vec![Value::Uuid(Some(codec::uuid(id.digest())))];
        values.extend(seen);
        values.extend([target, payload, codec::attempt(attempt)].map(|uuid| Value::Uuid(Some(uuid))));
        values.push(doubt_retention);
        let taken = tx.rows(TAKE, &values, "n").await?;
        return Ok(match taken.first().map(Vec::as_slice) {
            Some([Value::Number(Some(token))]) => Some(claim(*token)),
            _ => None,
        });
    }
    if let Some(difference) = fingerprint.difference(&claimed, options.on_mismatch) {
        return Ok(Some(Begun::Mismatch(difference)));
    }
    Ok(Some(match state {
        codec::COMPLETED => Begun::Replay(outcome),
        codec::FAILED => Begun::Failed(outcome),
        codec::IN_DOUBT => Begun::InDoubt,
        _ => Begun::InProgress,
    }))
}

fn identity(id: &RecordId) -> Vec<Value> {
    vec![
        Value::Uuid(Some(codec::uuid(id.digest()))),
        Value::Text(id.tenant().as_str().to_owned()),
        Value::Text(id.operation().as_str().to_owned()),
        Value::Text(id.key().as_str().to_owned()),
        Value::Uuid(id.variant().map(codec::uuid)),
    ]
}

/// What a row of [`FIND`] says.
struct Standing {
    /// Token and attempt.
    seen: [Value; 2],
    claimed: Fingerprint,
    state: i16,
    outcome: Outcome,
}

impl Standing {
    fn read(row: Vec<Value>) -> Result<Self, TransactionError> {
        let row: Result<[Value; 10], _> = row.try_into();
        let Ok(
            [
                token,
                attempt,
                Value::Uuid(Some(target)),
                Value::Uuid(Some(payload)),
                Value::Number(Some(state)),
                Value::Flag(same),
                Value::Number(code),
                Value::Flag(body_kept),
                Value::Bytes(head),
                Value::Bytes(body),
            ],
        ) = row
        else {
            return Err(TransactionError::damaged("a row of semel_records is damaged"));
        };
        if !same {
            return Err(TransactionError::damaged("a digest leads to the record of another key"));
        }
        let digest = |uuid: Uuid| Digest::from_bytes(uuid.into_bytes());
        Ok(Self {
            seen: [token, attempt],
            claimed: Fingerprint { target: digest(target), payload: digest(payload) },
            state: i16::try_from(state).unwrap_or(codec::IN_FLIGHT),
            outcome: Outcome {
                code: u16::try_from(code.unwrap_or(0)).unwrap_or(0),
                head: head.map_or(Bytes::new(), Bytes::from),
                body: body.map_or(Bytes::new(), Bytes::from),
                body_kept,
            },
        })
    }
}

impl Claim {
    /// Stores the outcome in `tx`, kept for `retention` from now.
    ///
    /// # Errors
    /// What PostgreSQL says, and that the claim was not begun in this transaction. Roll `tx` back then.
    pub async fn complete(
        self,
        tx: &mut impl CallersTransaction,
        outcome: &Outcome,
        retention: Duration,
    ) -> Result<(), TransactionError> {
        let values = [
            Value::Uuid(Some(codec::uuid(self.id.digest()))),
            Value::Number(Some(self.token)),
            Value::Uuid(Some(codec::attempt(self.attempt))),
            Value::Number(Some(codec::micros(retention))),
            Value::Number(Some(i64::from(outcome.code))),
            Value::Flag(outcome.body_kept),
            Value::Bytes(Some(outcome.head.to_vec())),
            Value::Bytes(Some(outcome.body.to_vec())),
        ];
        match tx.rows(COMPLETE, &values, "n").await?.len() {
            1 => Ok(()),
            _ => Err(TransactionError::damaged(
                "the claim was not begun in this transaction, or was rolled back",
            )),
        }
    }
}

/// Why a step of a transaction failed.
#[derive(Debug)]
pub struct TransactionError(Refusal);

impl TransactionError {
    fn damaged(what: &str) -> Self {
        Self(Refusal { code: None, source: what.into() })
    }

    fn is(&self, code: &str) -> bool {
        self.0.code.as_deref() == Some(code)
    }

    /// Whether the same transaction may be tried again from its beginning: a serialization failure or a deadlock.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.is(SERIALIZATION_FAILURE) || self.is(DEADLOCK_DETECTED)
    }
}

impl From<Refusal> for TransactionError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl fmt::Display for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the record could not be decided or stored in the transaction")
    }
}

impl std::error::Error for TransactionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.0.source.as_ref())
    }
}
