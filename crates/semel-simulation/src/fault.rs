//! The kinds of fault, and how often each has struck.
//!
//! Not when or where they strike: that is in [`crate::options`], by seed, and in the module of each host.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a fault comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On a connection, by chance.
    Wire,
    /// In the upstream, by chance for each request.
    Upstream,
    /// At a call of the store, by chance.
    Store,
    /// At a moment.
    Event,
    /// In what a program does with a call, by chance for each.
    Caller,
}

macro_rules! faults {
    ($($kind:ident: $($(#[doc = $doc:literal])+ $name:ident,)+)+) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault { $($($(#[doc = $doc])+ $name,)+)+ }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$($(Self::$name,)+)+];

            /// How it comes about.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self { $($(Self::$name)|+ => Kind::$kind,)+ }
            }
        }
    };
}

faults! {
    Wire:
    /// Nobody listens, it seems.
    ConnectionRefused,
    /// A connection is never made, and nobody says so.
    ConnectHangs,
    /// Reset before a byte of the request arrived.
    ResetBeforeHead,
    /// Reset in the request's head.
    ResetInHead,
    /// Reset before the last bytes of the request.
    ResetInBody,
    /// Reset when the request had arrived whole.
    ResetAfterBody,
    /// Reset in the answer's head.
    ResetInAnswerHead,
    /// Reset in the answer's body.
    ResetInAnswerBody,
    /// The request is swallowed: the connection is half open and silent.
    RequestSilence,
    /// The answer is swallowed.
    AnswerSilence,
    /// Half a second to eight seconds for the first bytes of the request and of the answer.
    Delay,
    /// Some late requests, so that those begun later arrive first.
    Reorder,
    /// An eighth at a time.
    Trickle,
    /// A few bytes at a time.
    Fragment,
    Upstream:
    /// 500, and nothing happened.
    Error500Before,
    /// 500, and the effect happened.
    Error500After,
    /// 503, and nothing happened.
    Busy503Before,
    /// 503 although the effect happened: a lie.
    Busy503After,
    /// 429, and nothing happened.
    Throttled429Before,
    /// 429 although the effect happened: a lie.
    Throttled429After,
    /// 422: the request is refused for good.
    Rejected422,
    /// No answer, and the effect happens when nobody waits any more.
    HangBefore,
    /// The effect, and no answer.
    HangAfter,
    /// The effect takes longer than a lease.
    SlowHandler,
    /// The upstream dies before the effect, and comes back.
    CrashBefore,
    /// The upstream dies after the effect, before its answer.
    CrashAfter,
    /// An answer larger than what is kept.
    OversizedAnswer,
    /// An answer that comes more slowly than it is gathered.
    SlowAnswer,
    /// 204.
    EmptyAnswer,
    /// The connection is closed right after the answer that promised to keep it.
    ClosesAfterAnswer,
    Store:
    /// A call never arrives.
    StoreCallLost,
    /// A call is carried out, and nobody is told.
    StoreReplyLost,
    /// A call arrives late, sometimes later than anybody waits.
    StoreSlow,
    /// A call is carried out at once and answered late.
    StoreReplyLate,
    /// A call is refused.
    StoreRefuses,
    /// A watch never says anything.
    StoreWatchLost,
    Event:
    /// Clients and gateways cannot reach each other.
    PartitionFront,
    /// Gateways and the upstream cannot reach each other.
    PartitionBack,
    /// Every call of the store is refused for a while.
    StoreDown,
    /// No call of the store is answered for a while.
    StorePause,
    /// The store's clock steps ahead.
    ClockAhead,
    /// The store's clock steps back.
    ClockBack,
    /// A gateway is killed; another starts on the same store.
    GatewayCrash,
    /// A gateway stands still, for longer than its leases as often as not.
    GatewayFreeze,
    /// A gateway drains and starts again.
    GatewayDrain,
    /// Records are purged while all this goes on.
    PurgeRuns,
    /// A person looks at the doubts and resolves them.
    OperatorResolves,
    /// Two gateways share the store.
    TwoGateways,
    Caller:
    /// Several bring one key at once.
    Duplicates,
    /// One hangs up, and asks again later.
    HangUp,
    /// One dies, and goes on from its journal.
    ClientCrash,
    /// One asks again when the outcome is no longer kept.
    RetryAfterRetention,
    /// One key, another payload.
    OtherPayload,
    /// One key, another path.
    OtherTarget,
    /// One key, another tenant.
    OtherTenant,
}

impl fmt::Display for Fault {
    /// `reset_in_head`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, letter) in format!("{self:?}").char_indices() {
            if at > 0 && letter.is_ascii_uppercase() {
                f.write_str("_")?;
            }
            write!(f, "{}", letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

/// How often each fault has struck.
#[derive(Debug)]
pub struct Tally(Vec<AtomicU64>);

impl Default for Tally {
    fn default() -> Self {
        Self(Fault::ALL.iter().map(|_| AtomicU64::new(0)).collect())
    }
}

impl Tally {
    /// It has struck once more.
    pub fn strike(&self, fault: Fault) {
        self.0[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often it has struck.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize].load(Ordering::Relaxed)
    }

    /// Adds what another has counted.
    pub fn add(&self, other: &Self) {
        for fault in Fault::ALL {
            self.0[*fault as usize].fetch_add(other.of(*fault), Ordering::Relaxed);
        }
    }

    /// Those that never struck.
    pub fn missing(&self) -> Vec<Fault> {
        Fault::ALL.iter().copied().filter(|fault| self.of(*fault) == 0).collect()
    }
}
