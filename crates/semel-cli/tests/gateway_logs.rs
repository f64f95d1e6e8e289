//! A gateway whose log nobody reads.

use std::process::Stdio;
use std::time::Duration;

use semel_testkit::client::{Call, Connection};
use semel_testkit::upstream::Upstream;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
/// A pipe holds 64 KiB, and each line has the key and the path in it.
const REQUESTS: usize = 600;

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_nobody_reads_hold_up_no_request() {
    let upstream = Upstream::charging();
    let mut child = Command::new(SEMEL)
        .args(["gateway", "--upstream", &upstream.url(), "--listen", "127.0.0.1:0", "--admin", "off"])
        .args(["--store", "memory:", "--log", "info"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program is there");
    // Held, so that the pipe stays open, and not read any further.
    let mut said = BufReader::new(child.stderr.take().expect("it was asked for"));
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        assert!(said.read_line(&mut line).await.expect("it is text") > 0, "it did not start");
    }
    let address = line.split("http://").nth(1).and_then(|rest| rest.split(',').next()).expect("an address");
    let address = address.parse().expect("an address");

    let key = "k".repeat(250);
    let work = async {
        let mut connection = Connection::open(address).await.expect("it listens");
        for nth in 0..REQUESTS {
            let answer = connection.send(&Call::post("/charges", "x").key(&key)).await.expect("an answer");
            assert_eq!((answer.status, answer.is_replay()), (201, nth > 0));
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(15), work).await;
    assert!(done.is_ok(), "requests wait for whoever reads the log");
    assert_eq!(upstream.ledger().total(), 1);
    drop(said);
}
