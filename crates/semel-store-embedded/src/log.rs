//! The log: files beside the store's, to which the entries of one batch are appended as one frame and synced before
//! anybody is answered.
//!
//! What is in the log and not yet in the tables is in memory too ([`crate::index`]), and is folded into the tables by
//! [`crate::fold`]; a log file whose entries are all folded is removed. Each file begins with the claims that were
//! live then, so that no older file is needed for them.
//!
//! A frame is: a mark, a checksum over all that follows and over its place, the number of its first entry, the length
//! of its entries, the entries.
//!
//! Syncing a file that grows makes the file system commit its own journal too, so once there is some load the log goes
//! on in files that were filled before, and a folded file is used again. What an earlier use left in it is no frame of
//! the new one, because the place is another.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Buf;

use crate::codec;
use crate::entry::Entry;
use crate::fault::Fault;
use crate::owner::private;

/// From what length on the next file is begun.
const FILE_BYTES: u64 = 16 << 20;
/// From what length on a file that grows is given up for one that was filled before.
const GROWN_BYTES: u64 = 1 << 20;
/// How large a buffer is kept for the next frame.
const FRAME_KEPT_BYTES: usize = 8 << 20;
const MARK: [u8; 8] = *b"\xc5Semel1\n";
const HEADER_BYTES: usize = 32;

/// The file that grows.
#[derive(Debug)]
pub(crate) struct Log {
    base: PathBuf,
    sync: bool,
    spare: Arc<Spare>,
    file: File,
    number: u64,
    length: u64,
    /// Whether the file was filled before.
    filled: bool,
    /// What the next entry is numbered.
    pub(crate) next: u64,
    frame: Vec<u8>,
}

/// A file that grows no more.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) path: PathBuf,
    /// The number after its last entry.
    pub(crate) end: u64,
}

/// Why a frame was not appended.
pub(crate) enum Refusal {
    /// There is no room; the log is as it was.
    Full(io::Error),
    /// Nobody knows what is in the file now.
    Broken(io::Error),
}

/// A file that was filled before, for the log to go on in.
#[derive(Debug)]
pub(crate) struct Spare {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl Spare {
    pub(crate) fn new(base: &Path) -> Self {
        let mut name = prefix_of(base);
        name.push("spare");
        Self { path: base.with_file_name(name), file: Mutex::default() }
    }

    fn slot(&self) -> MutexGuard<'_, Option<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills a file, unless there is one.
    pub(crate) fn make(&self) -> io::Result<()> {
        if self.slot().is_some() {
            return Ok(());
        }
        // Half a file is of no use, and takes what room is left.
        self.fill().inspect_err(|_| drop(fs::remove_file(&self.path)))
    }

    fn fill(&self) -> io::Result<()> {
        let mut file = private().truncate(true).open(&self.path)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..FILE_BYTES >> 20 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        file.rewind()?;
        *self.slot() = Some(file);
        Ok(())
    }

    /// Takes a log file that is of no more use.
    pub(crate) fn recycle(&self, path: &Path) -> io::Result<()> {
        let mut slot = self.slot();
        if slot.is_some() || fs::metadata(path)?.len() < FILE_BYTES {
            return fs::remove_file(path);
        }
        fs::rename(path, &self.path)?;
        let reopened = private().open(&self.path);
        *slot = reopened.and_then(|file| file.set_len(FILE_BYTES).map(|()| file)).ok();
        Ok(())
    }

    /// Gives the file away; `None` when there is none. `rename` moves it from where it lies, in the same step: as soon as
    /// it is taken, the next one may be made there.
    fn take(&self, rename: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<Option<File>> {
        let mut slot = self.slot();
        let Some(file) = slot.take() else { return Ok(None) };
        rename(&self.path)?;
        Ok(Some(file))
    }

    /// Ends it with the store.
    pub(crate) fn remove(&self) {
        if self.slot().take().is_some() {
            // One that stays is filled anew at the next opening.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Log {
    /// Begins the file `number` of the store at `base`. With `sync`, what is appended survives a power cut.
    pub(crate) fn begin(
        base: &Path,
        number: u64,
        next: u64,
        sync: bool,
        spare: Arc<Spare>,
    ) -> io::Result<Self> {
        let file = private().truncate(true).open(path_of(base, number))?;
        let frame = Vec::new();
        let log =
            Self { base: base.to_owned(), sync, spare, file, number, length: 0, filled: false, next, frame };
        log.sync_folder()?;
        Ok(log)
    }

    /// Appends `count` entries and syncs them.
    pub(crate) fn append(&mut self, entries: &[u8], count: u64) -> Result<(), Refusal> {
        self.frame.shrink_to(FRAME_KEPT_BYTES);
        write_frame(&mut self.frame, (self.number, self.length), self.next, entries);
        if let Err(error) = self.file.write_all(&self.frame) {
            return Err(match (error.kind(), self.cut()) {
                (ErrorKind::StorageFull | ErrorKind::QuotaExceeded, Ok(())) => Refusal::Full(error),
                _ => Refusal::Broken(error),
            });
        }
        if self.sync {
            self.file.sync_data().map_err(Refusal::Broken)?;
        }
        self.length += u64::try_from(self.frame.len()).expect("a length fits");
        self.next += count;
        Ok(())
    }

    /// Takes back what was written of a frame.
    fn cut(&mut self) -> io::Result<()> {
        if !self.filled {
            self.file.set_len(self.length)?;
        }
        self.file.seek(SeekFrom::Start(self.length)).map(|_| ())
    }

    /// Whether the next file should be begun.
    pub(crate) fn is_long(&self) -> bool {
        self.length >= FILE_BYTES || (self.wants_spare() && self.spare.slot().is_some())
    }

    /// Whether a filled file would be of use.
    pub(crate) fn wants_spare(&self) -> bool {
        !self.filled && self.length >= GROWN_BYTES
    }

    /// Begins the next file; its first entries must be the claims that are live. `None` when there is no room for it:
    /// the log goes on in this one.
    ///
    /// # Errors
    /// Nobody knows whether the next file survives a power cut.
    pub(crate) fn turn_over(&mut self) -> io::Result<Option<Closed>> {
        let path = path_of(&self.base, self.number + 1);
        let Ok(spare) = self.spare.take(|spare| fs::rename(spare, &path)) else { return Ok(None) };
        let filled = spare.is_some();
        let Ok(file) = spare.map_or_else(|| private().truncate(true).open(&path), Ok) else {
            return Ok(None);
        };
        let closed = Closed { path: path_of(&self.base, self.number), end: self.next };
        (self.file, self.filled, self.number, self.length) = (file, filled, self.number + 1, 0);
        self.sync_folder()?;
        Ok(Some(closed))
    }

    /// Without it a power cut could take a new file away, however well its contents were synced.
    fn sync_folder(&self) -> io::Result<()> {
        if self.sync { File::open(folder_of(&self.base))?.sync_all() } else { Ok(()) }
    }

    /// Ends the log.
    pub(crate) fn close(self) -> Closed {
        Closed { path: path_of(&self.base, self.number), end: self.next }
    }
}

fn path_of(base: &Path, number: u64) -> PathBuf {
    let mut name = prefix_of(base);
    name.push(number.to_string());
    base.with_file_name(name)
}

fn prefix_of(base: &Path) -> OsString {
    let mut name = base.file_name().unwrap_or_default().to_owned();
    name.push(".log-");
    name
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_frame(frame: &mut Vec<u8>, place: (u64, u64), first: u64, entries: &[u8]) {
    frame.clear();
    frame.extend_from_slice(&MARK);
    frame.extend_from_slice(&[0; 8]);
    frame.extend_from_slice(&first.to_le_bytes());
    frame.extend_from_slice(&entries.len().to_le_bytes());
    frame.extend_from_slice(entries);
    let checksum = checksum(place, &frame[16..]);
    frame[8..16].copy_from_slice(&checksum.to_le_bytes());
}

/// Place is the file's number and the offset in it, so that a frame is of use nowhere else.
fn checksum((number, offset): (u64, u64), bytes: &[u8]) -> i64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes()).update(&offset.to_le_bytes()).update(bytes);
    codec::shortened(&hasher.finalize())
}

/// Everything that log files hold.
pub(crate) struct Found {
    /// Entries with their numbers, oldest first.
    pub(crate) entries: Vec<(u64, Entry)>,
    pub(crate) closed: Vec<Closed>,
    /// The number of a file that is not there.
    pub(crate) next_file: u64,
}

/// Reads every log file of the store at `base`, whose tables have every entry before `folded`. What a crash left of
/// the newest frame was never acknowledged and is passed over.
///
/// `synced` says that the log was synced before anybody was answered, so that only its end can be missing. Without,
/// a power cut may have taken any of the last moments.
///
/// # Errors
/// [`Fault::Damaged`] when something acknowledged is not readable.
pub(crate) fn read(base: &Path, folded: u64, synced: bool) -> Result<Found, Fault> {
    let io = |error: io::Error| Fault::Io(error.to_string());
    let mut next = folded;
    let mut found = Found { entries: Vec::new(), closed: Vec::new(), next_file: 1 };
    let mut files = files(base).map_err(io)?;
    files.sort_unstable();
    for number in files {
        let path = path_of(base, number);
        let damaged = |what: &str| Fault::damaged(format!("{} {what}", path.display()));
        if synced {
            // Of a killed process, the newest frame may be in the system's memory only; it is believed from now on.
            File::open(&path).and_then(|file| file.sync_data()).map_err(io)?;
        }
        let bytes = fs::read(&path).map_err(io)?;
        let first = found.entries.len();
        let read_to = read_frames(number, &bytes, &mut found.entries)?;
        if synced && continues(number, &bytes, read_to) {
            return Err(damaged(&format!("is damaged at byte {read_to}")));
        }
        if synced && found.entries.get(first).is_some_and(|(entry, _)| *entry > next) {
            return Err(damaged("does not go on where the tables or the file before it end"));
        }
        let end = found.entries.last().map_or(0, |(entry, _)| entry.saturating_add(1));
        next = next.max(end);
        found.closed.push(Closed { path, end });
        found.next_file = number + 1;
    }
    Ok(found)
}

fn files(base: &Path) -> io::Result<Vec<u64>> {
    let prefix = prefix_of(base);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder_of(base))? {
        let name = entry?.file_name();
        let number = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
        numbers.extend(number.and_then(|digits| str::from_utf8(digits).ok()?.parse::<u64>().ok()));
    }
    Ok(numbers)
}

/// Returns the offset after the last whole frame.
fn read_frames(number: u64, bytes: &[u8], entries: &mut Vec<(u64, Entry)>) -> Result<usize, Fault> {
    let mut offset = 0;
    while let Some((first, mut rest)) = frame_at(number, bytes, offset) {
        offset += HEADER_BYTES + rest.len();
        let mut number = first;
        loop {
            entries.push((number, Entry::read(&mut rest)?));
            if !rest.has_remaining() {
                break;
            }
            number = number.checked_add(1).ok_or_else(|| Fault::damaged("the number of an entry"))?;
        }
    }
    Ok(offset)
}

/// The number of the first entry of the frame at `offset`, and its entries; `None` when there is no whole frame.
fn frame_at(number: u64, bytes: &[u8], offset: usize) -> Option<(u64, &[u8])> {
    let frame = bytes.get(offset..)?.strip_prefix(&MARK)?;
    let mut header = frame.get(..HEADER_BYTES - MARK.len())?;
    let (expected, first, length) = (header.get_i64_le(), header.get_u64_le(), header.get_u64_le());
    let covered = frame.get(8..usize::try_from(length).ok()?.checked_add(24)?)?;
    let place = (number, u64::try_from(offset).ok()?);
    (checksum(place, covered) == expected).then(|| (first, &covered[16..]))
}

/// Whether there is a whole frame after `offset`: then what lies there is damage, and not the end of the log.
fn continues(number: u64, bytes: &[u8], offset: usize) -> bool {
    (offset + 1..bytes.len()).any(|at| frame_at(number, bytes, at).is_some())
}

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;

#[cfg(test)]
mod tests;
