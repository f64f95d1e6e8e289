//! An entry of the log: what one step made of one record.
//!
//! Entries name their record wholly, so that the newest entry of a record is all there is to know about it. Next:
//! [`crate::log`], which frames them.

use std::sync::Arc;

use bytes::Buf;
use semel::clock::Timestamp;
use semel::digest::Digest;
use semel::{Record, State};

use crate::codec::{Body, Ended, Plain};
use crate::fault::Fault;
use crate::index::{Live, Settled};

/// What a step wrote.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "an entry is written as soon as it is made")]
pub(crate) enum Entry {
    /// The record is in flight.
    Live(Live),
    /// It is finished or in doubt; `over` as in [`Live::over`].
    Settled(Arc<Settled>, bool),
    /// It is absent; `over` as in [`Live::over`].
    Removed(Digest, bool),
    /// No time before this is ever shown again.
    Ceiling(Timestamp),
}

const LIVE: u8 = 0;
const SETTLED: u8 = 2;
const REMOVED: u8 = 4;
const CEILING: u8 = 6;
const OVER: u8 = 1;

impl Entry {
    pub(crate) fn write(&self, into: &mut Vec<u8>) {
        match self {
            Self::Live(Live { record, over }) => {
                into.push(LIVE | u8::from(*over));
                let State::InFlight { lease_until, execute_until } = record.state else {
                    unreachable!("a live claim is in flight");
                };
                Plain::of(record).write(into);
                into.extend_from_slice(&lease_until.as_micros().to_le_bytes());
                into.extend_from_slice(&execute_until.as_micros().to_le_bytes());
            }
            Self::Settled(settled, over) => {
                into.push(SETTLED | u8::from(*over));
                Plain::of(&settled.record).write(into);
                Ended::of(&settled.record).write(into);
                settled.body.write(into);
            }
            Self::Removed(digest, over) => {
                into.push(REMOVED | u8::from(*over));
                into.extend_from_slice(digest.as_bytes());
            }
            Self::Ceiling(ceiling) => {
                into.push(CEILING);
                into.extend_from_slice(&ceiling.as_micros().to_le_bytes());
            }
        }
    }

    /// No time before this one is to be shown after it.
    pub(crate) fn vouches_for(&self) -> Timestamp {
        match self {
            Self::Live(Live { record, .. }) => Timestamp::from_micros(record.guard.token.0),
            Self::Ceiling(ceiling) => *ceiling,
            Self::Settled(..) | Self::Removed(..) => Timestamp::default(),
        }
    }

    pub(crate) fn read(from: &mut &[u8]) -> Result<Self, Fault> {
        let kind = from.try_get_u8()?;
        let over = kind & OVER != 0;
        Ok(match kind & !OVER {
            LIVE => {
                let plain = Plain::read(from)?;
                let lease_until = Timestamp::from_micros(from.try_get_u64_le()?);
                let execute_until = Timestamp::from_micros(from.try_get_u64_le()?);
                let record = plain.into_record(State::InFlight { lease_until, execute_until })?;
                Self::Live(Live { record, over })
            }
            SETTLED => {
                let (plain, ended, body) = (Plain::read(from)?, Ended::read(from)?, Body::read(from)?);
                let record: Record = plain.into_record(ended.into_state(body.unpack()?)?)?;
                Self::Settled(Arc::new(Settled { record, body }), over)
            }
            REMOVED => {
                let mut digest = [0; 16];
                from.try_copy_to_slice(&mut digest)?;
                Self::Removed(Digest::from_bytes(digest), over)
            }
            CEILING => Self::Ceiling(Timestamp::from_micros(from.try_get_u64_le()?)),
            _ => return Err(Fault::damaged("an unknown kind of entry")),
        })
    }
}
