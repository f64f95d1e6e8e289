//! A disk that loses power: the trace of a [`super::Shim`] played up to any moment, and what may be on the disk then.
//!
//! Of a file there is for certain what its last successful sync covered. Of what was written after it, any part may be
//! there in any order, torn at sectors of 512 bytes. Names (new files, renames, removals) are there for certain after a
//! sync of the folder, else up to some moment after it, in order. One folder, without folders in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::seeded::Seeded;

const SECTOR_BYTES: usize = 512;
const HEAD_BYTES: usize = 17;

/// One step of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Opened, made if it was not there, cut to nothing.
    Opened {
        /// The descriptor.
        fd: i32,
        /// The path.
        path: String,
        /// Made when it was not there.
        create: bool,
        /// Cut to nothing.
        truncate: bool,
    },
    /// Bytes at a place in a file.
    Wrote(i32, usize, Vec<u8>),
    /// A new length.
    Cut(i32, usize),
    /// A sync that succeeded.
    Synced(i32),
    /// A sync that failed.
    SyncFailed(i32),
    /// A new name.
    Renamed(String, String),
    /// No name any more.
    Removed(String),
    /// Words on standard output: what the program told others at this moment.
    Said(String),
}

/// Reads a trace. Half a step at its end was never taken.
///
/// # Panics
/// When it is not there, or no trace.
#[must_use]
pub fn steps(trace: &Path) -> Vec<Step> {
    let bytes = fs::read(trace).unwrap_or_else(|error| panic!("{}: {error}", trace.display()));
    let (mut rest, mut steps) = (bytes.as_slice(), Vec::new());
    while let Some((head, more)) = rest.split_at_checked(HEAD_BYTES) {
        let fd = i32::from_ne_bytes([head[1], head[2], head[3], head[4]]);
        let number = u64::from_ne_bytes([5, 6, 7, 8, 9, 10, 11, 12].map(|at| head[at]));
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let length = u32::from_ne_bytes([13, 14, 15, 16].map(|at| head[at]));
        let Some((data, after)) = more.split_at_checked(usize::try_from(length).unwrap_or(usize::MAX)) else {
            break;
        };
        let text = || String::from_utf8_lossy(data).into_owned();
        steps.push(match head[0] {
            b'O' => Step::Opened { fd, path: text(), create: number & 1 != 0, truncate: number & 2 != 0 },
            b'W' => Step::Wrote(fd, number, data.to_vec()),
            b'T' => Step::Cut(fd, number),
            b'Y' => Step::Synced(fd),
            b'F' => Step::SyncFailed(fd),
            b'S' => Step::Said(text()),
            b'U' => Step::Removed(text()),
            b'R' => {
                let (from, to) = text()
                    .split_once('\0')
                    .map(|(from, to)| (from.to_owned(), to.to_owned()))
                    .unwrap_or_default();
                Step::Renamed(from, to)
            }
            other => panic!("a trace has no step {other}"),
        });
        rest = after;
    }
    steps
}

#[derive(Clone, Debug)]
enum Change {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    synced: Vec<u8>,
    since: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Naming {
    New(String, usize),
    Moved(String, String),
    Gone(String),
}

/// What is on the disk for certain, and what may be.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    inodes: Vec<Inode>,
    /// `None` is the folder.
    open: BTreeMap<i32, Option<usize>>,
    /// As the program sees them.
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    since: Vec<Naming>,
    folder: String,
}

impl Disk {
    /// An empty one, for the files in `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.display().to_string(), ..Self::default() }
    }

    /// Takes one step of the program.
    pub fn take(&mut self, step: &Step) {
        match step {
            Step::Opened { fd, path, create, truncate } => self.open(*fd, path, *create, *truncate),
            Step::Wrote(fd, at, bytes) => self.change(*fd, Change::Bytes(*at, bytes.clone())),
            Step::Cut(fd, length) => self.change(*fd, Change::Length(*length)),
            Step::Synced(fd) => self.sync(*fd),
            Step::Renamed(from, to) => self.name(Naming::Moved(from.clone(), to.clone())),
            Step::Removed(path) => self.name(Naming::Gone(path.clone())),
            Step::SyncFailed(_) | Step::Said(_) => {}
        }
    }

    fn open(&mut self, fd: i32, path: &str, create: bool, truncate: bool) {
        if path.trim_end_matches('/') == self.folder.trim_end_matches('/') {
            self.open.insert(fd, None);
            return;
        }
        if !self.names.contains_key(path) {
            assert!(create, "{path} was there before the trace");
            self.inodes.push(Inode::default());
            self.name(Naming::New(path.to_owned(), self.inodes.len() - 1));
        }
        let inode = self.names[path];
        self.open.insert(fd, Some(inode));
        if truncate {
            self.inodes[inode].since.push(Change::Length(0));
        }
    }

    fn change(&mut self, fd: i32, change: Change) {
        if let Some(Some(inode)) = self.open.get(&fd) {
            self.inodes[*inode].since.push(change);
        }
    }

    fn sync(&mut self, fd: i32) {
        match self.open.get(&fd) {
            Some(Some(inode)) => {
                let Inode { synced, since } = &mut self.inodes[*inode];
                since.drain(..).for_each(|change| apply(synced, &change));
            }
            Some(None) => {
                self.synced_names.clone_from(&self.names);
                self.since.clear();
            }
            None => {}
        }
    }

    fn name(&mut self, naming: Naming) {
        rename(&mut self.names, &naming);
        self.since.push(naming);
    }

    /// The files that may be found after a power cut now, by their names without the folder.
    #[must_use]
    pub fn after_a_cut(&self, random: &mut Seeded) -> BTreeMap<String, Vec<u8>> {
        let mut names = self.synced_names.clone();
        for naming in &self.since[..random.below(self.since.len() + 1)] {
            rename(&mut names, naming);
        }
        let files = names.into_iter().map(|(path, inode)| {
            let name = path.rsplit('/').next().unwrap_or_default().to_owned();
            (name, self.inodes[inode].after_a_cut(random))
        });
        files.collect()
    }
}

fn rename(names: &mut BTreeMap<String, usize>, naming: &Naming) {
    match naming {
        Naming::New(path, inode) => drop(names.insert(path.clone(), *inode)),
        Naming::Gone(path) => drop(names.remove(path)),
        Naming::Moved(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Bytes(at, more) => {
            let end = at + more.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(more);
        }
    }
}

impl Inode {
    fn after_a_cut(&self, random: &mut Seeded) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        // Nothing of it, all of it, its beginning, or any part.
        let kind = random.below(4);
        let beginning = random.below(self.since.len() + 1);
        for (nth, change) in self.since.iter().enumerate() {
            match kind {
                0 => {}
                1 => apply(&mut bytes, change),
                2 if nth < beginning => apply(&mut bytes, change),
                2 if nth == beginning => torn(random, &mut bytes, change),
                2 => {}
                _ => torn(random, &mut bytes, change),
            }
        }
        bytes
    }
}

/// Some sectors of it.
fn torn(random: &mut Seeded, bytes: &mut Vec<u8>, change: &Change) {
    let Change::Bytes(at, more) = change else {
        if random.below(2) == 0 {
            apply(bytes, change);
        }
        return;
    };
    let keep = random.below(4);
    let (mut from, end) = (*at, at + more.len());
    while from < end {
        let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        if keep == 3 || (keep > 0 && random.below(2) == 0) {
            apply(bytes, &Change::Bytes(from, more[from - at..to - at].to_vec()));
        }
        from = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        let mut disk = Disk::new(Path::new("/f"));
        let open = |fd, path: &str| Step::Opened { fd, path: path.to_owned(), create: true, truncate: false };
        for step in [
            open(3, "/f/a"),
            open(4, "/f"),
            Step::Synced(4),
            Step::Wrote(3, 0, b"sure".to_vec()),
            Step::Synced(3),
            Step::Wrote(3, 4, b"maybe".to_vec()),
            Step::SyncFailed(3),
            Step::Renamed("/f/a".to_owned(), "/f/b".to_owned()),
        ] {
            disk.take(&step);
        }
        disk
    }

    #[test]
    fn what_was_synced_is_there_and_the_rest_may_be() {
        let mut random = Seeded::new(1);
        let found: std::collections::BTreeSet<_> =
            (0..100).map(|_| disk().after_a_cut(&mut random)).collect();
        assert_eq!(found.len(), 4, "two names, with and without the write: {found:?}");
        assert!(found.iter().flat_map(BTreeMap::values).all(|bytes| bytes.starts_with(b"sure")));
    }
}
