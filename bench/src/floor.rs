//! The floor: a file that the same bytes are appended to, one fdatasync for all callers who wait.

use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::pin::Pin;

use tokio::sync::{mpsc, oneshot};

use crate::driver::Target;
use crate::store::{BODY_BYTES, IDENTITY_BYTES};

pub(crate) struct Log(mpsc::Sender<(Vec<u8>, oneshot::Sender<()>)>);

impl Log {
    pub(crate) fn create(path: &Path) -> std::io::Result<Self> {
        let mut file = File::create(path)?;
        let (sender, mut receiver) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>(4096);
        std::thread::spawn(move || {
            let (mut waiting, mut bytes) = (Vec::new(), Vec::new());
            while receiver.blocking_recv_many(&mut waiting, 256) > 0 {
                bytes.clear();
                waiting.iter().for_each(|(entry, _)| bytes.extend_from_slice(entry));
                file.write_all(&bytes).and_then(|()| file.sync_data()).expect("the disk takes it");
                for (_, reply) in waiting.drain(..) {
                    let _ = reply.send(());
                }
            }
        });
        Ok(Self(sender))
    }

    async fn append(&self, bytes: usize) {
        let (reply, answer) = oneshot::channel();
        self.0.send((vec![b'x'; bytes], reply)).await.expect("the log lives");
        answer.await.expect("the log lives");
    }
}

impl Target for Log {
    fn pair(&self, _number: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            self.append(IDENTITY_BYTES).await;
            self.append(IDENTITY_BYTES + BODY_BYTES).await;
        })
    }
}
