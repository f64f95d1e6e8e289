//! The built program, as people and scripts call it: help, exit codes, JSON, and records of a running gateway.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tempfile::TempDir;

/// The program, with a state directory of its own and none of the user's settings.
fn semel(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SEMEL_")) {
        command.env_remove(name);
    }
    command.env("XDG_STATE_HOME", folder).current_dir(folder).stdin(Stdio::null());
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    semel(folder).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn fails(output: &Output, code: i32, says: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "{says:?} is not in {stderr:?}");
    assert!(output.stdout.is_empty());
}

#[test]
fn every_command_has_help_with_an_example() {
    let folder = tempfile::tempdir().unwrap();
    let top = text(&run(folder.path(), &["--help"]).stdout);
    assert!(top.trim_end().ends_with("6  an audit found another fault that --fail-on names"), "{top}");
    for command in [
        "gateway",
        "audit",
        "audit run",
        "audit sdk",
        "audit serve",
        "audit server",
        "check",
        "demo",
        "completions",
        "keys",
        "keys list",
        "keys show",
        "keys release",
        "keys resolve",
        "keys purge",
        "store",
        "store check",
        "store migrate",
        "store copy",
    ] {
        let args: Vec<_> = command.split(' ').chain(["--help"]).collect();
        let output = run(folder.path(), &args);
        let help = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0));
        assert!(help.contains("Example") && help.contains(&format!("  semel {command}")), "{help}");
    }
}

#[test]
fn completions_are_made_for_every_shell() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(folder.path(), &["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("purge"), "{shell}");
    }
}

#[test]
fn a_bad_store_is_refused_and_the_good_ones_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let says = "the stores are `embedded:PATH`";
    fails(&run(folder.path(), &["keys", "list", "--store", "mysql://db"]), 2, says);
    let by_variable = semel(folder.path()).args(["keys", "list"]).env("SEMEL_STORE", "x").output().unwrap();
    fails(&by_variable, 2, says);
    std::fs::write(folder.path().join("semel.toml"), "store = \"sqlite\"\n").unwrap();
    fails(&run(folder.path(), &["keys", "list", "--config", "semel.toml"]), 2, says);
}

#[test]
fn a_store_that_is_not_there_is_not_made_by_looking() {
    let folder = tempfile::tempdir().unwrap();
    fails(&run(folder.path(), &["keys", "list", "--store", "embedded:none.sqlite"]), 4, "there is no store");
    fails(&run(folder.path(), &["keys", "list"]), 4, "semel/gateway.sqlite");
    fails(&run(folder.path(), &["keys", "list", "--store", "memory:"]), 4, "admin listener");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    std::fs::write(
        folder.path().join("notes.txt"),
        "not a store of any kind, and longer than a header ".repeat(40),
    )
    .unwrap();
    let foreign = run(folder.path(), &["keys", "list", "--store", "embedded:notes.txt"]);
    fails(&foreign, 4, "is not a store of semel");
}

#[test]
fn a_configuration_is_refused_with_line_and_column() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("semel.toml"), "upstream = \"http://127.0.0.1:1\"\n\nlisen = \"x\"\n")
        .unwrap();
    for command in ["check", "gateway"] {
        fails(
            &run(folder.path(), &[command, "--config", "semel.toml"]),
            2,
            "semel.toml:3:1: unknown field `lisen`",
        );
    }
    fails(&run(folder.path(), &["check", "--config", "none.toml"]), 2, "none.toml cannot be read");
    fails(&run(folder.path(), &["gateway"]), 2, "no upstream");
    fails(&run(folder.path(), &["gateway", "--upstream", "ftp://x"]), 2, "is not an upstream");
}

#[test]
fn check_says_what_is_promised_and_flags_win_over_variables_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let toml = "upstream = \"http://file:1\"\nlisten = \"127.0.0.1:1\"\nstore = \"memory:\"\n\
                [defaults]\non_doubt = \"retry\"\n";
    std::fs::write(folder.path().join("semel.toml"), toml).unwrap();
    let output = semel(folder.path())
        .args(["check", "--config", "semel.toml", "--json", "--upstream", "http://flag:3"])
        .env("SEMEL_UPSTREAM", "http://variable:2")
        .env("SEMEL_LISTEN", "127.0.0.1:2")
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["upstream"], "http://flag:3/");
    assert_eq!(report["listen"], "127.0.0.1:2");
    assert_eq!((&report["store"], &report["durability"]), (&"memory:".into(), &"none".into()));
    assert_eq!(report["routes"][0]["mode"], "at least once");
    let spoken = text(&run(folder.path(), &["check", "--config", "semel.toml"]).stdout);
    assert!(spoken.contains("TWO EFFECTS") && spoken.contains("ALL RECORDS ARE FORGOTTEN"), "{spoken}");
}

/// An API that counts its effects. `/lost` takes effect and breaks the connection; the rest answers 201.
struct Upstream {
    address: SocketAddr,
    effects: Arc<AtomicUsize>,
}

impl Upstream {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, effects) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&effects);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let head = read_request(&mut stream);
                counted.fetch_add(1, Ordering::SeqCst);
                if !head.starts_with("POST /lost") {
                    let answer =
                        b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmade";
                    stream.write_all(answer).unwrap();
                }
            }
        });
        Self { address, effects }
    }

    fn effects(&self) -> usize {
        self.effects.load(Ordering::SeqCst)
    }
}

/// Reads the head and the body of a request and returns the head.
fn read_request(stream: &mut TcpStream) -> String {
    let (mut reader, mut head, mut length) = (BufReader::new(stream), String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 || line == "\r\n" {
            break;
        }
        if let Some(said) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = said.trim().parse().unwrap();
        }
        head += &line;
    }
    reader.read_exact(&mut vec![0; length]).unwrap();
    head
}

/// A running gateway, killed when dropped.
struct Gateway {
    child: Child,
    first_line: String,
    address: String,
    folder: TempDir,
}

impl Gateway {
    fn start(upstream: &Upstream) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = semel(folder.path())
            .args(["gateway", "--listen", "127.0.0.1:0", "--admin", "off", "--upstream"])
            .arg(format!("http://{}", upstream.address))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut first_line = String::new();
        stderr.read_line(&mut first_line).unwrap();
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let (_, rest) = first_line.split_once("http://").unwrap_or_else(|| panic!("{first_line}"));
        let address = rest.split(',').next().unwrap().to_owned();
        Self { child, first_line, address, folder }
    }

    fn post(&self, path: &str, key: &str, caller: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: api\r\nConnection: close\r\nAuthorization: {caller}\r\n\
             Idempotency-Key: {key}\r\nContent-Length: 2\r\n\r\n{{}}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn keys(&self, args: &[&str]) -> Output {
        run(self.folder.path(), &[&["keys"], args].concat())
    }

    fn json(&self, args: &[&str]) -> Vec<Value> {
        let output = self.keys(&[args, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let documents = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
        documents.map(Result::unwrap).collect()
    }

    /// Sends SIGTERM and waits for the end.
    fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_first_line_says_where_and_a_second_process_is_refused() {
    let upstream = Upstream::start();
    let mut gateway = Gateway::start(&upstream);
    let store = gateway.folder.path().join("semel/gateway.sqlite");
    let expected = format!(
        "semel gateway listening on http://{}, upstream http://{}, store embedded:{} (durability power)\n",
        gateway.address,
        upstream.address,
        store.display()
    );
    assert_eq!(gateway.first_line, expected);
    let folder = std::fs::metadata(store.parent().unwrap()).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&folder.permissions()) & 0o777, 0o700);
    let second = ["gateway", "--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin", "off"];
    fails(&run(gateway.folder.path(), &second), 4, "is open already");
    assert_eq!(gateway.terminate(), Some(0));
    assert!(!store.with_file_name("gateway.sqlite.socket").exists());
}

#[test]
fn a_doubt_is_listed_resolved_and_then_replayed_without_a_second_effect() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&upstream);
    assert!(gateway.post("/lost", "order-42", "a").starts_with("HTTP/1.1 502"));
    assert_eq!(upstream.effects(), 1);
    let listed = gateway.json(&["list", "--state", "in-doubt"]);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["key"], "order-42");
    let table = text(&gateway.keys(&["list"]).stdout);
    assert!(table.starts_with("STATE ") && table.trim_end().ends_with("order-42"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colours when nobody looks");

    let args = [
        "resolve",
        "order-42",
        "--completed",
        "--status",
        "201",
        "--header",
        "Location: /7",
        "--body",
        "by hand",
    ];
    let changed = gateway.json(&args);
    assert_eq!(
        (&changed[0]["before"]["state"], &changed[0]["after"]["state"]),
        (&"in-doubt".into(), &"completed".into())
    );
    let replayed = gateway.post("/lost", "order-42", "a").to_ascii_lowercase();
    assert!(replayed.starts_with("http/1.1 201") && replayed.ends_with("by hand"), "{replayed}");
    assert!(
        replayed.contains("location: /7\r\n") && replayed.contains("idempotency-replayed: true"),
        "{replayed}"
    );
    assert_eq!(upstream.effects(), 1);

    fails(&gateway.keys(&["release", "order-42"]), 1, "SEMEL-0023");
    assert_eq!(gateway.json(&["purge", "order-42"])[0]["removed"], 1);
    fails(&gateway.keys(&["show", "order-42"]), 3, "SEMEL-0022");
}

#[test]
fn a_key_of_two_callers_is_changed_only_when_one_is_named() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&upstream);
    gateway.post("/lost", "k", "a");
    gateway.post("/lost", "k", "b");
    let refused = gateway.keys(&["release", "k"]);
    fails(&refused, 3, "2 records have the key \"k\"");
    let tenant =
        text(&refused.stderr).split("--tenant ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let as_json = gateway.keys(&["release", "k", "--json"]);
    let problem: Value = serde_json::from_slice(&as_json.stderr).unwrap();
    assert_eq!(problem["matches"].as_array().unwrap().len(), 2);
    gateway.json(&["release", "k", "--tenant", &tenant]);
    assert_eq!(gateway.json(&["list"]).len(), 1);
    assert_eq!(upstream.effects(), 2);
}

#[test]
fn the_store_is_opened_when_its_gateway_has_died() {
    let upstream = Upstream::start();
    let mut gateway = Gateway::start(&upstream);
    assert!(gateway.post("/pay", "done", "a").starts_with("HTTP/1.1 201"));
    gateway.post("/lost", "lost", "a");
    let asked = text(&gateway.keys(&["list", "-v"]).stderr);
    assert!(asked.contains("asking the owner"), "{asked}");
    gateway.child.kill().unwrap();
    gateway.child.wait().unwrap();
    let opened = text(&gateway.keys(&["list", "-v"]).stderr);
    assert!(opened.contains("nobody owns"), "{opened}");
    let mut states: Vec<_> = gateway.json(&["list"]).iter().map(|one| one["state"].clone()).collect();
    states.sort_by_key(ToString::to_string);
    assert_eq!(states, ["completed", "in-doubt"]);
    let shown = gateway.json(&["show", "done", "--body"]);
    assert_eq!((&shown[0]["code"], &shown[0]["outcome"]["body"]["text"]), (&201.into(), &"made".into()));
    assert_eq!(
        text(&gateway.keys(&["resolve", "lost", "--not-happened"]).stdout),
        "\"lost\" is free again: it may run\n"
    );
    assert_eq!(
        text(&gateway.keys(&["purge", "--finished", "--operation", "http"]).stdout),
        "1 record removed\n"
    );
    assert_eq!(text(&gateway.keys(&["purge", "--expired"]).stdout), "0 records removed\n");
    assert_eq!(text(&gateway.keys(&["list"]).stderr), "no records\n");
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["keys", "resolve", "k"][..],
        &["keys", "resolve", "k", "--completed", "--not-happened"],
        &["keys", "resolve", "k", "--not-happened", "--status", "200"],
        &["keys", "purge"],
        &["keys", "purge", "--finished"],
        &["keys", "purge", "k", "--expired"],
        &["keys", "purge", "--expired", "--tenant", "t"],
        &["keys", "list", "--limit", "1", "--all"],
        &["keys", "list", "--state", "locked"],
    ] {
        assert_eq!(run(folder.path(), args).status.code(), Some(2), "{args:?}");
    }
}
