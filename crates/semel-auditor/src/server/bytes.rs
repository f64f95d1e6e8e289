//! Every byte of a scenario, in a file: when, on which connection, which way. Of credentials only that they were there.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::clock::Since;

/// A file never grows beyond this; the thousandth call looks like the others.
const FILE_MAX_BYTES: usize = 1 << 20;

/// Headers whose values are not written down.
const SECRET: [&str; 4] = ["authorization:", "proxy-authorization:", "cookie:", "x-api-key:"];

#[derive(Clone, Copy)]
pub(super) enum Way {
    In,
    Out,
    End { reset: bool },
}

#[derive(Debug)]
pub(super) struct ByteLog {
    since: Since,
    file: Mutex<Counted>,
}

#[derive(Debug)]
struct Counted {
    file: BufWriter<File>,
    written: usize,
}

impl ByteLog {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = Counted { file: BufWriter::new(File::create(path)?), written: 0 };
        Ok(Self { since: Since::now(), file: Mutex::new(file) })
    }

    pub(super) fn note(&self, connection: u32, way: Way, data: &[u8]) {
        let at = self.since.elapsed().as_secs_f64() * 1e3;
        let text = match way {
            Way::In if data.is_empty() => format!("[{at:.3} ms] #{connection} client closed\n"),
            Way::In => format!("[{at:.3} ms] #{connection} client:\n{}", escaped(data)),
            Way::Out => format!("[{at:.3} ms] #{connection} server:\n{}", escaped(data)),
            Way::End { reset: true } => format!("[{at:.3} ms] #{connection} server resets\n"),
            Way::End { reset: false } => format!("[{at:.3} ms] #{connection} server closes\n"),
        };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.written <= FILE_MAX_BYTES {
            file.written += text.len();
            // A disk that is full does not change what the client is judged by.
            let _ = file.file.write_all(text.as_bytes());
            if file.written > FILE_MAX_BYTES {
                let _ = file.file.write_all(b"[the rest is not written down]\n");
            }
        }
    }
}

/// A line for each line, indented, with everything but printable ASCII escaped.
fn escaped(data: &[u8]) -> String {
    let mut text = String::new();
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        let shown = line.escape_ascii().to_string();
        let lower = shown.to_ascii_lowercase();
        text.push_str("    ");
        match SECRET.iter().find(|name| lower.starts_with(**name)) {
            Some(name) => text.push_str(&format!("{} (hidden)\\r\\n", &shown[..name.len()])),
            None => text.push_str(&shown),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_written_down() {
        let text = escaped(b"POST / HTTP/1.1\r\nAuthorization: Bearer s3cret\r\n\r\n\x00x");
        assert_eq!(
            text,
            "    POST / HTTP/1.1\\r\\n\n    Authorization: (hidden)\\r\\n\n    \\r\\n\n    \\x00x\n"
        );
    }
}
