//! Frames and entries from bytes that no store wrote, and spare files that are made while one is taken.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use semel::State;
use semel::clock::Timestamp;
use semel::digest::Digest;
use semel::record::DoubtCause;

use super::fuzz::{entries, record, written};
use super::*;
use crate::codec::Body;
use crate::index::{Live, Settled};

#[test]
fn any_bytes_are_damaged_or_an_entry_that_is_written_as_it_was_read() {
    semel_testkit::fuzz::run("embedded entry", fuzz::ENTRIES, &fuzz::made_entries(), fuzz::entry);
}

#[test]
fn every_entry_is_read_as_it_was_written() {
    let at = Timestamp::from_micros;
    let claim = record(State::InFlight { lease_until: at(7), execute_until: at(8) });
    let doubt = record(State::InDoubt { since: at(7), expires_at: at(8), cause: DoubtCause::NoAnswer });
    let doubt = Arc::new(Settled { record: doubt, body: Body::default() });
    let over_or_not = [false, true].into_iter().flat_map(|over| {
        [
            Entry::Live(Live { record: claim.clone(), over }),
            Entry::Settled(Arc::clone(&doubt), over),
            Entry::Removed(Digest::from_bytes([1; 16]), over),
        ]
    });
    for entry in entries().into_iter().chain(over_or_not) {
        let read = Entry::read(&mut written(&entry).as_slice()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{entry:?}"));
    }
}

#[test]
fn a_log_of_any_bytes_is_read_to_where_its_frames_end() {
    semel_testkit::fuzz::run("embedded log", fuzz::LOGS, &fuzz::made_logs(), fuzz::log);
}

#[test]
fn a_spare_that_is_made_while_another_is_taken_leaves_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("store");
    let spare = Arc::new(Spare::new(&base));
    let mut log = Log::begin(&base, 1, 0, true, Arc::clone(&spare)).unwrap();
    let ended = AtomicBool::new(false);
    let mut apart = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                spare.make().unwrap();
            }
        });
        let spare_is_there = || {
            while spare.slot().is_none() {
                std::thread::yield_now();
            }
        };
        for number in 2..22 {
            spare_is_there();
            let turned = log.turn_over().is_ok_and(|closed| closed.is_some());
            spare_is_there();
            let taken = fs::metadata(path_of(&base, number)).map(|file| file.ino()).ok();
            let next = spare.slot().as_ref().and_then(|file| file.metadata().ok()).map(|file| file.ino());
            apart.push(turned && taken.is_some() && taken != next);
        }
        ended.store(true, Ordering::Relaxed);
    });
    assert_eq!(apart, [true; 20]);
}
