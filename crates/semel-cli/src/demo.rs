//! `semel demo`: one bad day at a small payments API, played directly and then through the gateway.
//!
//! It shows what Semel is for in about ten seconds, with no set-up. Nothing here takes part in deciding a request: the
//! gateway is the real one, a child process of this binary (`demo/gateway.rs`), and the figures are counted in the
//! ledger of the payments API (`demo/payments.rs`). Next: `demo/scenarios.rs`, what happens on that day; then
//! `demo/report.rs` and `demo/table.rs`, what is shown of it.

mod client;
mod gateway;
mod payments;
mod report;
mod scenarios;
mod table;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

pub(crate) use self::gateway::Gateway;

use self::client::Client;
use self::payments::Payments;
use self::report::{Report, Side, Stage};
use self::table::Screen;

const FRAME: Duration = Duration::from_millis(80);

/// Play one bad day of payments twice, without and with Semel, and count the charges
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Plays one bad day twice against a small payments API that knows nothing of idempotency keys: \
        double clicks, timeouts, lost answers, 50 requests at once, a crash, a changed amount. First directly, then \
        through `semel gateway`. The charges shown are counted in the ledger of that API. Takes about 10 seconds, \
        needs nothing but free ports on 127.0.0.1, and leaves nothing behind.",
    after_help = "Examples:\n  semel demo\n  semel demo --json\n\nExit status: 0 when the charges made with Semel are \
        those that were meant."
)]
pub(crate) struct DemoArgs {
    /// Print one JSON document at the end instead of the live table
    #[arg(long)]
    json: bool,
}

/// Plays both days and shows them. True when each charge made with Semel was meant, by the ledger.
///
/// `start_gateway` is given the address of the payments API and returns the gateway in front of it, ready to serve;
/// outside tests it is [`Gateway::start`].
///
/// # Errors
/// When a port, the gateway or standard output cannot be had, and with [`io::ErrorKind::Interrupted`] after SIGINT,
/// SIGTERM or SIGHUP. The gateway is gone by then in each case.
pub(crate) async fn run(
    args: DemoArgs,
    start_gateway: impl AsyncFnOnce(SocketAddr) -> io::Result<Gateway>,
) -> io::Result<bool> {
    let started = Instant::now();
    let mut interruption = Interruption::listen()?;
    let days = Days { without: Payments::start().await?, with: Payments::start().await? };
    let gateway = tokio::select! {
        gateway = start_gateway(days.with.addr()) => gateway?,
        error = interruption.comes() => return Err(error),
    };
    let mut screen = if args.json { Screen::silent() } else { Screen::on_stdout() };
    let played = tokio::select! {
        played = play(&days, gateway.addr(), &mut screen) => played,
        error = interruption.comes() => Err(error),
    };
    let stopped = gateway.stop().await;
    let report = played?;
    stopped?;
    if args.json {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer_pretty(&mut stdout, &report.document(started.elapsed()))?;
        writeln!(stdout)?;
    }
    Ok(report.as_meant(Side::With))
}

/// A payments API for each day, so that nothing of the first one is left in the ledger of the second.
struct Days {
    without: Payments,
    with: Payments,
}

/// The order of play.
async fn play(days: &Days, gateway: SocketAddr, screen: &mut Screen) -> io::Result<Report> {
    let mut report = Report::new();
    screen.open()?;
    for (side, payments, addr) in
        [(Side::Without, &days.without, days.without.addr()), (Side::With, &days.with, gateway)]
    {
        for row in 0..report.rows.len() {
            play_row(&mut report, row, side, payments, Client { addr }, screen).await?;
        }
    }
    report.count(Side::Without, &days.without);
    report.count(Side::With, &days.with);
    screen.close(&report)?;
    Ok(report)
}

/// Plays one scenario of one day while the screen follows the ledger.
async fn play_row(
    report: &mut Report,
    row: usize,
    side: Side,
    payments: &Payments,
    client: Client,
    screen: &mut Screen,
) -> io::Result<()> {
    let scenario = report.rows[row].scenario;
    let now = match side {
        Side::Without => format!("without Semel: {}", scenario.what),
        Side::With => format!("with Semel: {}", scenario.what),
    };
    report.rows[row].cell_mut(side).stage = Stage::Playing;
    let pace = screen.pace();
    let playing = async {
        let (answers, ()) = tokio::join!(scenario.play(client, payments), tokio::time::sleep(pace));
        answers
    };
    tokio::pin!(playing);
    let mut frames = tokio::time::interval(FRAME);
    let answers = loop {
        tokio::select! {
            answers = &mut playing => break answers,
            _ = frames.tick() => {
                report.count(side, payments);
                screen.draw(report, &now)?;
            }
        }
    };
    report.rows[row].cell_mut(side).stage = Stage::Done(answers);
    report.count(side, payments);
    screen.draw(report, &now)?;
    if side == Side::With { screen.row_done(&report.rows[row]) } else { Ok(()) }
}

/// The signals that end the demo early: it then stops the gateway and tidies up.
struct Interruption {
    signals: [Signal; 3],
}

impl Interruption {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            signals: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            ],
        })
    }

    async fn comes(&mut self) -> io::Error {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        io::Error::new(io::ErrorKind::Interrupted, "the demo was interrupted")
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::client::told;
    use super::scenarios::SCENARIOS;
    use super::*;

    /// Plays one scenario of the second day against `addr`, with `payments` as the ledger.
    async fn played_with(row: usize, payments: &Payments, addr: SocketAddr) -> Report {
        let mut report = Report::new();
        let mut screen = Screen::silent();
        play_row(&mut report, row, Side::With, payments, Client { addr }, &mut screen).await.unwrap();
        report
    }

    #[tokio::test]
    async fn without_semel_all_but_the_good_payments_charge_more_than_meant() {
        let mut playing = JoinSet::new();
        for scenario in &SCENARIOS {
            playing.spawn(async move {
                let payments = Payments::start().await.unwrap();
                scenario.play(Client { addr: payments.addr() }, &payments).await;
                (scenario.name, scenario.meant().charges, scenario.charged(&payments).charges)
            });
        }
        for (name, meant, charged) in playing.join_all().await {
            match name {
                "10 good payments" => assert_eq!((meant, charged), (10, 10)),
                "50 racers on one key" => assert_eq!((meant, charged), (1, 50)),
                // A machine that stalls makes a client retry more often than it has to.
                _ => assert!(meant == 1 && charged > 1, "{name}: {charged}"),
            }
        }
    }

    #[tokio::test]
    async fn a_gateway_that_does_nothing_gets_no_credit() {
        let payments = Payments::start().await.unwrap();
        let report = played_with(4, &payments, payments.addr()).await;
        assert_eq!(report.rows[4].with.charged.charges, 50);
        assert_eq!(report.too_much_cents(Side::With), 49 * 9_00);
        assert!(!report.as_meant(Side::With));
    }

    #[tokio::test]
    async fn a_payment_that_never_arrived_is_not_counted() {
        let payments = Payments::start().await.unwrap();
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let report = played_with(6, &payments, closed).await;
        assert_eq!(report.rows[6].with.charged.charges, 0);
        assert_eq!(told(report.rows[6].with.answers()), "6 × no connection");
        assert!(!report.as_meant(Side::With));
    }
}
