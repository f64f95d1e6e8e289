//! The bad day: seven things that happen to payments, each with the charges that were meant.
//!
//! A scenario says what its customer wants and plays it against an address. It does not count: charges are read from
//! the ledger of `payments.rs`. To add one, add its line to [`SCENARIOS`] and its arm to [`Scenario::play`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::client::{Answer, Client, Order};
use super::payments::{Fault, Payment, Payments, Tally};

const DOUBLE_CLICK_GAP: Duration = Duration::from_millis(60);
const RESTART: Duration = Duration::from_millis(250);
const RACERS: usize = 50;
/// The scenario of the changed amount asks for this much the second time.
const CHANGED_AMOUNT_CENTS: u64 = 90_00;

/// One thing that happens; the same on both days.
pub(super) struct Scenario {
    event: Event,
    /// At most 20 characters: the first column of the table.
    pub(super) name: &'static str,
    /// One line of at most 60 characters.
    pub(super) what: &'static str,
    customer: &'static str,
    amount_cents: u64,
    charges_meant: u64,
    fault: Fault,
}

#[derive(Clone, Copy)]
enum Event {
    GoodPayments,
    DoubleClick,
    Retries,
    Race,
    Crash,
    ChangedAmount,
}

pub(super) const SCENARIOS: [Scenario; 7] = [
    Scenario {
        event: Event::GoodPayments,
        name: "10 good payments",
        what: "ten orders, ten keys, nothing goes wrong",
        customer: "ada",
        amount_cents: 15_00,
        charges_meant: 10,
        fault: Fault::Nothing,
    },
    Scenario {
        event: Event::DoubleClick,
        name: "double click",
        what: "Pay is clicked twice, 60 ms apart",
        customer: "ben",
        amount_cents: 25_00,
        charges_meant: 1,
        fault: Fault::Nothing,
    },
    Scenario {
        event: Event::Retries,
        name: "slow answer, retried",
        what: "the API answers after 1.2 s, the client waits only 0.8 s",
        customer: "cleo",
        amount_cents: 60_00,
        charges_meant: 1,
        fault: Fault::SlowAnswers,
    },
    Scenario {
        event: Event::Retries,
        name: "lost answer, retried",
        what: "the API charges, then drops the connection unanswered",
        customer: "dan",
        amount_cents: 40_00,
        charges_meant: 1,
        fault: Fault::NextAnswerLost,
    },
    Scenario {
        event: Event::Race,
        name: "50 racers on one key",
        what: "one payment on 50 connections at the same moment",
        customer: "eve",
        amount_cents: 9_00,
        charges_meant: 1,
        fault: Fault::Nothing,
    },
    Scenario {
        event: Event::Crash,
        name: "client crash, resent",
        what: "the client dies unanswered, restarts and sends again",
        customer: "finn",
        amount_cents: 75_00,
        charges_meant: 1,
        fault: Fault::Nothing,
    },
    Scenario {
        event: Event::ChangedAmount,
        name: "changed amount",
        what: "a bug sends $90.00 under the key that paid $40.00",
        customer: "gil",
        amount_cents: 40_00,
        charges_meant: 1,
        fault: Fault::Nothing,
    },
];

impl Scenario {
    /// What the customer wants to be charged in all.
    pub(super) fn meant(&self) -> Tally {
        Tally { charges: self.charges_meant, cents: self.charges_meant * self.amount_cents }
    }

    /// What the ledger says was charged, at this moment.
    pub(super) fn charged(&self, payments: &Payments) -> Tally {
        payments.charged(self.customer)
    }

    /// Plays the scenario and returns every answer that the client got, in order, replays last where several
    /// requests run at once.
    pub(super) async fn play(&self, client: Client, payments: &Payments) -> Vec<Answer> {
        payments.set_fault(self.fault);
        let order = self.order(0);
        let answers = match self.event {
            Event::GoodPayments => {
                let orders = (0..self.charges_meant).map(|number| self.order(number));
                all_at_once(client, orders.collect()).await
            }
            Event::DoubleClick => {
                let second_click = async {
                    tokio::time::sleep(DOUBLE_CLICK_GAP).await;
                    client.pay(&order).await
                };
                let (first, second) = tokio::join!(client.pay(&order), second_click);
                replays_last([first, second].concat())
            }
            Event::Retries => client.pay(&order).await,
            Event::Race => all_at_once(client, vec![order; RACERS]).await,
            Event::Crash => {
                let mut answers = vec![client.send_until(&order, self.first_charge(payments)).await];
                tokio::time::sleep(RESTART).await;
                answers.extend(client.pay(&order).await);
                answers
            }
            Event::ChangedAmount => {
                let mut answers = client.pay(&order).await;
                let mut changed = order;
                changed.payment.amount_cents = CHANGED_AMOUNT_CENTS;
                answers.extend(client.pay(&changed).await);
                answers
            }
        };
        payments.set_fault(Fault::Nothing);
        answers
    }

    fn order(&self, number: u64) -> Order {
        Order {
            key: format!("order-{}-{number}", self.customer),
            payment: Payment { customer: self.customer.to_owned(), amount_cents: self.amount_cents },
        }
    }

    /// Ends once the customer stands in the ledger: the worst moment for a client to die.
    async fn first_charge(&self, payments: &Payments) {
        while self.charged(payments).charges == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Sends each order once, on a connection of its own; none is sent before all are connected.
async fn all_at_once(client: Client, orders: Vec<Order>) -> Vec<Answer> {
    let barrier = Arc::new(Barrier::new(orders.len()));
    let mut racers = JoinSet::new();
    for order in orders {
        let barrier = Arc::clone(&barrier);
        racers.spawn(async move {
            let line = client.connect().await;
            barrier.wait().await;
            match line {
                Some(line) => line.send(&order).await,
                None => Answer::NotConnected,
            }
        });
    }
    replays_last(racers.join_all().await)
}

fn replays_last(mut answers: Vec<Answer>) -> Vec<Answer> {
    answers.sort_by_key(Answer::is_replay);
    answers
}
