//! The log: files beside the store's, to which the entries of one batch are appended as one frame and synced before
//! anybody is answered.
//!
//! What is in the log and not yet in the tables is in memory too ([`crate::index`]), and is folded into the tables by
//! [`crate::fold`]; a log file whose entries are all folded is removed. Each file begins with the claims that were
//! live then, so that no older file is needed for them.
//!
//! A frame is: a mark, a checksum over all that follows and over its place, the number of its first entry, the length
//! of its entries, the entries.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Buf;

use crate::codec;
use crate::entry::Entry;
use crate::fault::Fault;
use crate::owner::private;

/// From what length on the next file is begun.
const FILE_BYTES: u64 = 16 << 20;
const MARK: [u8; 8] = *b"\xc5Semel1\n";
const HEADER_BYTES: usize = 32;

/// The file that grows.
#[derive(Debug)]
pub(crate) struct Log {
    base: PathBuf,
    sync: bool,
    file: File,
    number: u64,
    length: u64,
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

impl Log {
    /// Begins the file `number` of the store at `base`. With `sync`, what is appended survives a power cut.
    pub(crate) fn begin(base: &Path, number: u64, next: u64, sync: bool) -> io::Result<Self> {
        let file = begin_file(base, number, sync)?;
        Ok(Self { base: base.to_owned(), sync, file, number, length: 0, next, frame: Vec::new() })
    }

    /// Appends `count` entries and syncs them.
    pub(crate) fn append(&mut self, entries: &[u8], count: u64) -> Result<(), Refusal> {
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
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length)).map(|_| ())
    }

    pub(crate) fn is_long(&self) -> bool {
        self.length >= FILE_BYTES
    }

    /// Begins the next file. Its first entries must be the claims that are live.
    pub(crate) fn turn_over(&mut self) -> io::Result<Closed> {
        self.file = begin_file(&self.base, self.number + 1, self.sync)?;
        let closed = Closed { path: path_of(&self.base, self.number), end: self.next };
        (self.number, self.length) = (self.number + 1, 0);
        Ok(closed)
    }

    /// Ends the log.
    pub(crate) fn close(self) -> Closed {
        Closed { path: path_of(&self.base, self.number), end: self.next }
    }
}

fn begin_file(base: &Path, number: u64, sync: bool) -> io::Result<File> {
    let path = path_of(base, number);
    let file = private().truncate(true).open(&path)?;
    if sync {
        // Without it a power cut could take the file away, however well its contents were synced.
        File::open(folder_of(&path))?.sync_all()?;
    }
    Ok(file)
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

/// Reads every log file of the store at `base`. What a crash left of the newest frame was never acknowledged and is
/// passed over.
///
/// # Errors
/// [`Fault::Damaged`] when something acknowledged is not readable.
pub(crate) fn read(base: &Path) -> Result<Found, Fault> {
    let mut found = Found { entries: Vec::new(), closed: Vec::new(), next_file: 1 };
    let mut files = files(base).map_err(|error| Fault::Io(error.to_string()))?;
    files.sort_unstable();
    let newest = files.last().copied();
    for number in files {
        let path = path_of(base, number);
        let bytes = fs::read(&path).map_err(|error| Fault::Io(error.to_string()))?;
        let (end, read_to) = read_frames(number, &bytes, &mut found.entries)?;
        let whole = read_to == bytes.len() || (newest == Some(number) && !continues(number, &bytes, read_to));
        if !whole {
            return Err(Fault::damaged(format!("{} is damaged at byte {read_to}", path.display())));
        }
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

/// Returns the number after the last entry, and the offset after the last whole frame.
fn read_frames(number: u64, bytes: &[u8], entries: &mut Vec<(u64, Entry)>) -> Result<(u64, usize), Fault> {
    let (mut next, mut offset) = (0, 0);
    while let Some((first, mut rest)) = frame_at(number, bytes, offset) {
        offset += HEADER_BYTES + rest.len();
        next = first;
        while rest.has_remaining() {
            entries.push((next, Entry::read(&mut rest)?));
            next += 1;
        }
    }
    Ok((next, offset))
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
