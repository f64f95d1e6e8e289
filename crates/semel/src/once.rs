//! The closure form: `engine.once(operation).key(k).run(effect)`, for consumers of messages, webhooks and jobs.
//!
//! The effect runs in a task of its own: a caller that goes away changes nothing. What it returns decides the
//! record: `Ok` is stored; [`EffectError::NotRun`] releases; [`EffectError::Failed`] stores the failure;
//! [`EffectError::Unknown`], a panic or an abort leave it in doubt.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::{Ask, Begun, Claim, Completion, Engine, Refusal};
use crate::error::{Code, Error};
use crate::fingerprint::{self, Fingerprint, PayloadParts};
use crate::key::{Key, KeyError};
use crate::policy::Policy;
use crate::record::{DoubtCause, Outcome, Record, State, Token};
use crate::scope::{Operation, RecordId, Tenant};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A call being prepared. Made by [`Engine::once`].
#[derive(Debug)]
#[must_use = "nothing runs before `run`"]
pub struct Once {
    engine: Engine,
    operation: Operation,
    tenant: Tenant,
    key: Result<Key, KeyError>,
    payload: Bytes,
    policy: Arc<Policy>,
}

impl Engine {
    /// Prepares to run the effect called `operation` once for a key. Without [`Once::key`] a fresh one is made.
    pub fn once(&self, operation: &str) -> Once {
        Once {
            engine: self.clone(),
            operation: Operation::new(operation),
            tenant: Tenant::shared(),
            key: Ok(Key::auto()),
            payload: Bytes::new(),
            policy: Arc::default(),
        }
    }
}

impl Once {
    /// The key: a [`Key`] or its text. A text that is not a key is an error of [`Once::run`].
    pub fn key<K: TryInto<Key>>(mut self, key: K) -> Self
    where
        KeyError: From<K::Error>,
    {
        self.key = key.try_into().map_err(KeyError::from);
        self
    }

    /// Who owns the key. Default: one tenant shared by all.
    pub fn tenant(mut self, tenant: Tenant) -> Self {
        self.tenant = tenant;
        self
    }

    /// What the effect is asked to do: the same key with another payload is a mismatch. Default: empty.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// How duplicates, doubt and mismatch are treated, and for how long the outcome is kept.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Runs `effect` unless it has run: then its stored value is returned. Values are stored as JSON.
    ///
    /// # Errors
    /// [`OnceError`] says what is known; the key may be brought again as [`OnceError::code`] says.
    ///
    /// # Cancellation
    /// A dropped call changes nothing: the effect goes on and its outcome is stored.
    pub async fn run<T, F, Fut>(self, effect: F) -> Result<Done<T>, OnceError>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnOnce(Held) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, EffectError>> + Send + 'static,
    {
        let ask = self.ask()?;
        let engine = self.engine.clone();
        let running = tokio::spawn(async move {
            match engine.begin(ask).await? {
                Begun::Run(claim) => run_claimed(claim, effect).await,
                Begun::Replay(record) => replay(&record),
                Begun::Refuse(refusal) => Err(OnceError::Refused(refusal)),
            }
        });
        running.await.map_err(|stopped| OnceError::Unknown(stopped.into()))?
    }

    fn ask(&self) -> Result<Ask, OnceError> {
        let key = self.key.clone().map_err(Error::from)?;
        let fingerprint = Fingerprint {
            target: fingerprint::target("once", self.operation.as_str(), None),
            payload: fingerprint::payload(&self.payload, &PayloadParts::Raw),
        };
        let policy = Arc::clone(&self.policy);
        Ok(Ask::new(self.tenant.clone(), self.operation.clone(), key, fingerprint, policy))
    }
}

async fn run_claimed<T, F, Fut>(claim: Claim, effect: F) -> Result<Done<T>, OnceError>
where
    T: Serialize + DeserializeOwned,
    F: FnOnce(Held) -> Fut,
    Fut: Future<Output = Result<T, EffectError>>,
{
    claim.start();
    let held = Held { id: claim.id().clone(), token: claim.token(), generation: claim.generation() };
    let completion = match effect(held).await {
        Ok(value) => match serde_json::to_vec(&value) {
            Ok(stored) => claim.complete(outcome(stored)).await,
            Err(error) => {
                claim.doubt(DoubtCause::NoAnswer).await;
                return Err(OnceError::Unknown(error.into()));
            }
        },
        Err(EffectError::NotRun(reason)) => {
            claim.release().await;
            return Err(OnceError::NotRun(reason));
        }
        Err(EffectError::Failed(message)) => claim.fail(outcome(message.into_bytes())).await,
        Err(EffectError::Unknown(reason)) => {
            claim.doubt(DoubtCause::NoAnswer).await;
            return Err(OnceError::Unknown(reason));
        }
    };
    match completion {
        Completion::Stored(record) => replay(&record).map(|done| Done { replayed: false, ..done }),
        Completion::Superseded(Some(record)) => replay(&record),
        Completion::Superseded(None) => Err(OnceError::Unknown("the claim was lost and purged".into())),
        Completion::Unrecorded(reason) => Err(OnceError::Unknown(reason.into())),
    }
}

fn outcome(body: Vec<u8>) -> Outcome {
    Outcome { body: body.into(), body_kept: true, ..Outcome::default() }
}

fn replay<T: DeserializeOwned>(record: &Record) -> Result<Done<T>, OnceError> {
    match &record.state {
        State::Completed { outcome, .. } => match serde_json::from_slice(&outcome.body) {
            Ok(value) => Ok(Done { value, replayed: true }),
            Err(error) => Err(OnceError::Unreadable(error.into())),
        },
        State::Failed { outcome, .. } => {
            Err(OnceError::Failed(String::from_utf8_lossy(&outcome.body).into_owned()))
        }
        State::InFlight { .. } | State::InDoubt { .. } => Err(OnceError::Refused(Refusal::InDoubt(None))),
    }
}

/// What the effect is told about the claim under which it runs, to hand on to what it calls.
#[derive(Clone, Debug)]
pub struct Held {
    id: RecordId,
    token: Token,
    generation: u32,
}

impl Held {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        self.id.key()
    }

    /// The fencing token.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// How many times the record was claimed afresh, from 1. Above 1 the effect may have happened before.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }
}

/// A value, and whether the effect ran for this call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<T> {
    value: T,
    replayed: bool,
}

impl<T> Done<T> {
    /// What the effect produced.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// What the effect produced, by value.
    pub fn into_value(self) -> T {
        self.value
    }

    /// Whether the value is a stored one.
    pub fn is_replay(&self) -> bool {
        self.replayed
    }
}

/// How an effect did not succeed.
#[derive(Debug)]
pub enum EffectError {
    /// It certainly did not happen: the same key may run again.
    NotRun(BoxError),
    /// It ended for good in this error, which is replayed.
    Failed(String),
    /// It may or may not have happened.
    Unknown(BoxError),
}

impl EffectError {
    /// The effect certainly did not happen, because of `reason`.
    pub fn not_run(reason: impl Into<BoxError>) -> Self {
        Self::NotRun(reason.into())
    }

    /// The effect ended for good in this error.
    pub fn failed(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// The effect may or may not have happened, because of `reason`.
    pub fn unknown(reason: impl Into<BoxError>) -> Self {
        Self::Unknown(reason.into())
    }
}

/// Why [`Once::run`] has no value.
#[derive(Debug)]
pub enum OnceError {
    /// The effect said that it did not happen; the key is free again.
    NotRun(BoxError),
    /// The effect ended for good in this error, now or for an earlier caller.
    Failed(String),
    /// The effect ran, or may have; the record is in doubt.
    Unknown(BoxError),
    /// A duplicate still runs, another payload came, or the record is in doubt; nothing was run.
    Refused(Refusal),
    /// The stored value is not of the type asked for; nothing was run.
    Unreadable(BoxError),
    /// The key is not one, or the store could not say; nothing was run.
    Engine(Error),
}

impl OnceError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotRun(_) => Code::UpstreamUnreachable,
            Self::Failed(_) => Code::UpstreamFailed,
            Self::Unknown(_) => Code::OutcomeUnknown,
            Self::Refused(refusal) => refusal.code(),
            Self::Unreadable(_) => Code::Mismatch,
            Self::Engine(error) => error.code(),
        }
    }
}

impl fmt::Display for OnceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRun(_) => write!(f, "the effect did not happen; the key may be brought again"),
            Self::Failed(error) => write!(f, "the effect failed: {error}"),
            Self::Unknown(_) => write!(f, "the effect may have happened; the record is in doubt"),
            Self::Refused(refusal) => write!(f, "refused: {}", refusal.code().name().replace('-', " ")),
            Self::Unreadable(_) => write!(f, "the stored value is not of the type asked for"),
            Self::Engine(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OnceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotRun(source) | Self::Unknown(source) | Self::Unreadable(source) => Some(source.as_ref()),
            Self::Engine(error) => std::error::Error::source(error),
            Self::Failed(_) | Self::Refused(_) => None,
        }
    }
}

impl From<Error> for OnceError {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}
