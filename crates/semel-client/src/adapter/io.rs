//! What an error of the operating system says about how far a request came.

use std::error::Error;
use std::io::{self, ErrorKind};

/// Whether there was never a connection, so that not a byte was sent. An error that may also come later is not one.
pub(crate) fn never_connected(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            let refused = matches!(
                io.kind(),
                ErrorKind::ConnectionRefused
                    | ErrorKind::AddrNotAvailable
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
            );
            if refused {
                return true;
            }
        }
        cause = error.source();
    }
    false
}
