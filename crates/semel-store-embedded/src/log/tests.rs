//! Frames and entries from bytes that no store wrote, and spare files that are made while one is taken.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::MetadataExt;

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
fn no_spare_is_made_where_another_is_being_taken() {
    let folder = tempfile::tempdir().unwrap();
    let spare = Spare::new(&folder.path().join("store"));
    spare.make().unwrap();
    let taken = spare.take(|file| {
        assert!(spare.file.try_lock().is_err(), "the next one may be made now");
        fs::rename(file, folder.path().join("taken"))
    });
    assert!(taken.unwrap().is_some());
    spare.make().unwrap();
    let of = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_ne!(of(&folder.path().join("taken")), of(&spare.path));
}
