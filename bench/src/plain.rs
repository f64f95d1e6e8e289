//! What one would write first: a SQLite table with a unique index over a digest, an INSERT and an UPDATE, one
//! transaction and one fsync for all callers who wait.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;

use rusqlite::{Connection, params};
use semel::RecordId;
use tokio::sync::{mpsc, oneshot};

use crate::driver::Target;
use crate::store::{BODY_BYTES, IDENTITY_BYTES, id};

enum Step {
    Insert(RecordId),
    Update(RecordId),
}

pub(crate) struct Plain(mpsc::Sender<(Step, oneshot::Sender<()>)>);

impl Plain {
    pub(crate) fn create(path: &Path) -> rusqlite::Result<Self> {
        let conn = Connection::open(path)?;
        conn.pragma_update(None, "journal_mode", "wal")?;
        conn.pragma_update(None, "synchronous", "full")?;
        conn.execute_batch("CREATE TABLE t (digest BLOB UNIQUE, identity BLOB, body BLOB)")?;
        let (sender, mut receiver) = mpsc::channel(4096);
        std::thread::spawn(move || {
            let mut waiting: Vec<(Step, oneshot::Sender<()>)> = Vec::new();
            while receiver.blocking_recv_many(&mut waiting, 256) > 0 {
                commit(&conn, &waiting).expect("the disk takes it");
                for (_, reply) in waiting.drain(..) {
                    let _ = reply.send(());
                }
            }
        });
        Ok(Self(sender))
    }

    async fn ask(&self, step: Step) {
        let (reply, answer) = oneshot::channel();
        self.0.send((step, reply)).await.expect("the table lives");
        answer.await.expect("the table lives");
    }
}

fn commit(conn: &Connection, steps: &[(Step, oneshot::Sender<()>)]) -> rusqlite::Result<()> {
    conn.execute_batch("BEGIN IMMEDIATE")?;
    for (step, _) in steps {
        match step {
            Step::Insert(id) => conn
                .prepare_cached("INSERT INTO t VALUES (?1, ?2, NULL)")?
                .execute(params![id.digest().as_bytes(), [b'x'; IDENTITY_BYTES]])?,
            Step::Update(id) => conn
                .prepare_cached("UPDATE t SET body = ?2 WHERE digest = ?1")?
                .execute(params![id.digest().as_bytes(), [b'x'; BODY_BYTES]])?,
        };
    }
    conn.execute_batch("COMMIT")
}

impl Target for Plain {
    fn pair(&self, number: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            self.ask(Step::Insert(id(number))).await;
            self.ask(Step::Update(id(number))).await;
        })
    }
}
