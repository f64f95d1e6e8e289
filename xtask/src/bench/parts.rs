//! The parts of a measurement, each short enough to lend the machine for: name, what it shows, command.

/// A part.
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) work: Work,
}

/// Who measures it, with which arguments.
pub(super) enum Work {
    /// `semel-bench gateway`.
    Gateway(String),
    /// `semel-bench store`.
    Embedded(String),
    /// `semel-bench` with a store that has a server.
    Server(String),
    /// Figures are left where criterion leaves them.
    Criterion(String),
}

/// The part whose figures criterion has.
pub(super) const LIBRARY: &str = "library";
pub(super) const BUILD_LIBRARY: &str = "cargo bench --locked -p semel-bench-library --bench library --no-run";

pub(super) fn all(quick: bool) -> Vec<Part> {
    let mut parts = gateway(quick);
    parts.extend(stores(quick));
    let criterion = "cargo bench --locked -p semel-bench-library --bench library --";
    let short = if quick { " --warm-up-time 0.1 --measurement-time 0.2" } else { "" };
    parts.push(Part {
        name: LIBRARY,
        about: "keys, fingerprints, the engine and the layer inside a program",
        work: Work::Criterion(format!("{criterion}{short}")),
    });
    parts
}

fn gateway(quick: bool) -> Vec<Part> {
    let length = if quick { "--rounds 2 --milliseconds 200" } else { "--rounds 5 --milliseconds 900" };
    let paced = if quick { "--rounds 2 --milliseconds 500" } else { "--rounds 5 --milliseconds 4000" };
    let rounds = if quick { "--rounds 1" } else { "--rounds 5" };
    let (crowd, million) = if quick { (1_000, 10_000) } else { (10_000, 1_000_000) };
    let part = |name, about, arguments| Part { name, about, work: Work::Gateway(arguments) };
    let stores = "--middles memory,embedded,redis,postgres";
    vec![
        part("callers-1", "one caller", format!("--connections 1 {length}")),
        part("callers-32", "32 callers", format!("--connections 32 {length}")),
        part("callers-256", "256 callers", format!("--connections 256 {length}")),
        part(
            "one-core",
            "32 callers, and everything on one core",
            format!("--one-core --connections 32 {length}"),
        ),
        part(
            "http2",
            "32 callers on four connections over HTTP/2",
            format!("--http2 8 --connections 32 {length}"),
        ),
        part(
            "paced-fresh",
            "32 callers with 1,000 fresh keys a second",
            format!("--workloads fresh --rate 1000 --connections 32 {paced}"),
        ),
        part(
            "paced-replay",
            "32 callers with 8,000 repeated keys a second",
            format!("--workloads replay --rate 8000 --connections 32 {paced}"),
        ),
        part(
            "crowd",
            "10,000 callers with one key, all there before the effect ends",
            format!("--workloads crowd {stores} --connections {crowd} --pause-ms 2000 {rounds}"),
        ),
        part(
            "crowd-slow",
            "200 callers with one key, an effect of 300 ms",
            format!("--workloads crowd {stores} --connections 200 --pause-ms 300 {rounds}"),
        ),
        part(
            "crowd-quick",
            "200 callers with one key, an effect that takes no time",
            format!("--workloads crowd {stores} --connections 200 {rounds}"),
        ),
        part(
            "memory",
            "256 callers and a million fresh keys",
            format!(
                "--workloads fresh --middles floor,embedded,redis,postgres --connections 256 --requests {million} --rounds 1"
            ),
        ),
        part(
            "peers",
            "what else there is, where it is installed",
            format!(
                "--workloads fresh,replay --middles floor,redis,postgres,axum,axum-memory,axum-redis,axum-postgres --peers --connections 32 {length}"
            ),
        ),
        part(
            "peers-crowd",
            "200 callers with one key, an effect of 300 ms, at what else there is",
            "--workloads crowd --middles redis,postgres,axum-memory,axum-redis,axum-postgres --peers --connections 200 --pause-ms 300 --rounds 1".to_owned(),
        ),
    ]
}

fn stores(quick: bool) -> Vec<Part> {
    let length = if quick { "--rounds 2 --seconds 1" } else { "--rounds 5 --seconds 2" };
    let records = if quick { "--records 20000" } else { "--records 5000000" };
    let part = |name, about, arguments| Part { name, about, work: Work::Embedded(arguments) };
    let server = |name, about, arguments| Part { name, about, work: Work::Server(arguments) };
    vec![
        part("embedded", "the embedded store, empty", format!("--modes empty {length}")),
        part("fill", "a file of live records, made once", format!("--modes fill {records}")),
        part("loaded", "the embedded store with live records", format!("--modes loaded {records} {length}")),
        part("steady", "as many records come as expire", format!("--modes steady {records} {length}")),
        part("expiry", "a million records expire", format!("--modes expiry {records} {length}")),
        part("kill", "opening after kill -9", format!("--modes kill {records} {length}")),
        server("redis", "the Redis store", format!("redis {length}")),
        server("postgres", "the PostgreSQL store", format!("postgres {length}")),
    ]
}
