//! Everything that a seed decides before the first request: the mode, the times, how often each fault strikes, and what
//! happens when. Printed whole when a seed fails.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use semel::policy::{OnDoubt, OnDuplicate};

use crate::chance::Chance;
use crate::fault::{Fault, Kind};
use crate::plant::Plant;

/// What becomes of doubts, and what the upstream does about keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At most once: doubts are held.
    Hold,
    /// At least once: doubts are run again, and the upstream knows nothing of keys.
    Retry,
    /// Doubts are run again, and the upstream acts once for a key.
    PassThrough,
    /// Doubts are run again, and the upstream refuses a token lower than one it has seen.
    Fenced,
    /// The upstream is asked about doubts.
    Probe,
}

/// What a seed decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// What becomes of doubts.
    pub mode: Mode,
    /// What duplicates get.
    pub on_duplicate: OnDuplicate,
    /// How many gateways share the store.
    pub gateways: usize,
    /// How many logical calls are made.
    pub calls: usize,
    /// Within which time they begin.
    pub spread: Duration,
    /// How long a claim is believed alive.
    pub lease: Duration,
    /// How long an outcome is kept.
    pub retention: Duration,
    /// How long a duplicate waits.
    pub wait: Duration,
    /// How long an answer of the store is awaited.
    pub store_timeout: Duration,
    /// How long the upstream's answer is awaited.
    pub upstream_timeout: Duration,
    /// Nothing strikes that would leave a doubt: then none may be left.
    pub gentle: bool,
    /// How often each fault strikes, in a thousand.
    pub rates: BTreeMap<Fault, u64>,
    /// What happens when, which gateway it happens to, and for how long.
    pub events: Vec<Event>,
    /// A fault of Semel's own, planted to see it found.
    pub plant: Option<Plant>,
}

/// Something that happens at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// When, from the start.
    pub at: Duration,
    /// What.
    pub fault: Fault,
    /// To which gateway.
    pub gateway: usize,
    /// For how long, or how far.
    pub lasting: Duration,
}

impl Options {
    /// What `seed` decides.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut dice = Chance::of(seed, "options");
        let modes =
            [Mode::Hold, Mode::Hold, Mode::Hold, Mode::Retry, Mode::PassThrough, Mode::Fenced, Mode::Probe];
        let mut options = Self {
            seed,
            mode: modes[dice.below(modes.len())],
            on_duplicate: [OnDuplicate::Wait, OnDuplicate::Wait, OnDuplicate::Conflict][dice.below(3)],
            gateways: 1 + dice.below(2),
            calls: 4 + dice.below(13),
            spread: dice.millis(0, 20_000),
            lease: dice.millis(1_000, 6_000),
            retention: Duration::from_secs(24 * 60 * 60),
            wait: dice.millis(500, 10_000),
            store_timeout: dice.millis(500, 5_000),
            upstream_timeout: dice.millis(2_000, 15_000),
            gentle: false,
            rates: BTreeMap::new(),
            events: Vec::new(),
            plant: None,
        };
        let calm = dice.below(8) == 0;
        for fault in Fault::ALL.iter().filter(|_| !calm) {
            options.choose(*fault, &mut dice);
        }
        match dice.below(8) {
            0 => options.stand_still(&mut dice),
            1 => options.lose_the_store(&mut dice),
            2 => options.be_gentle(&mut dice),
            _ => {}
        }
        options.events.sort_by_key(|event| event.at);
        if options.rate(Fault::RetryAfterRetention) > 0 {
            options.retention = dice.millis(20_000, 60_000);
        }
        options
    }

    /// Gateways stand still in the middle of slow effects, while others take over: what stale executors need to meet
    /// new ones.
    fn stand_still(&mut self, dice: &mut Chance) {
        self.gateways = 2;
        self.calls = 8 + dice.below(9);
        self.spread = Duration::from_secs(12);
        self.rates.insert(Fault::SlowHandler, dice.between(200, 600));
        self.rates.insert(Fault::Duplicates, dice.between(300, 900));
        for _ in 0..4 {
            let (at, gateway) = (dice.millis(10, 14_000), dice.below(2));
            let lasting = self.lease + dice.millis(0, 4_000);
            self.events.push(Event { at, fault: Fault::GatewayFreeze, gateway, lasting });
        }
    }

    /// The store goes away for longer than a completion is tried, again and again.
    fn lose_the_store(&mut self, dice: &mut Chance) {
        self.calls = 12 + dice.below(9);
        self.spread = Duration::from_secs(25);
        self.rates.insert(Fault::SlowHandler, dice.between(200, 600));
        for _ in 0..3 {
            let fault = [Fault::StoreDown, Fault::StoreDown, Fault::StorePause][dice.below(3)];
            let (at, lasting) = (dice.millis(500, 25_000), dice.millis(4_000, 12_000));
            self.events.push(Event { at, fault, gateway: 0, lasting });
        }
    }

    /// Clients and their connections fail as ever, effects take longer than leases, and the way to the store is bad but
    /// for no longer than an outcome is tried to be stored. Where doubts are held, the clock may step over a lease as
    /// well: its holder still completes it.
    fn be_gentle(&mut self, dice: &mut Chance) {
        self.gentle = true;
        let held = self.mode == Mode::Hold;
        self.upstream_timeout = Duration::from_secs(60);
        self.rates.retain(|fault, rate| match fault.kind() {
            Kind::Wire | Kind::Caller => true,
            Kind::Store => {
                *rate = (*rate).min(60);
                held
            }
            Kind::Upstream | Kind::Event => false,
        });
        if held {
            self.rates.insert(Fault::StoreRefuses, dice.between(20, 60));
            self.rates.insert(Fault::StoreReplyLost, dice.between(20, 60));
        }
        self.rates.insert(Fault::SlowHandler, dice.between(200, 600));
        self.rates.insert(Fault::Duplicates, dice.between(100, 600));
        self.rates.insert(Fault::HangUp, dice.between(100, 600));
        self.events.retain(|event| match event.fault {
            Fault::TwoGateways | Fault::PurgeRuns | Fault::PartitionFront => true,
            Fault::ClockAhead => held,
            _ => false,
        });
    }

    fn choose(&mut self, fault: Fault, dice: &mut Chance) {
        let (one_in, least, most) = match fault.kind() {
            Kind::Wire => (4, 20, 200),
            Kind::Upstream => (5, 20, 250),
            Kind::Store => (5, 10, 120),
            Kind::Caller => (3, 50, 400),
            Kind::Event => {
                if dice.below(5) == 0 {
                    self.schedule(fault, dice);
                }
                return;
            }
        };
        if dice.below(one_in) == 0 {
            self.rates.insert(fault, dice.between(least, most));
        }
    }

    fn schedule(&mut self, fault: Fault, dice: &mut Chance) {
        if matches!(fault, Fault::TwoGateways | Fault::PurgeRuns) {
            let event = Event { at: Duration::ZERO, fault, gateway: 0, lasting: dice.millis(100, 3_000) };
            if fault == Fault::TwoGateways {
                self.gateways = 2;
            }
            return self.events.push(event);
        }
        for _ in 0..=dice.below(2) {
            let lasting = match fault {
                Fault::ClockAhead if dice.below(4) == 0 => dice.millis(3_600_000, 7_200_000),
                Fault::ClockAhead | Fault::ClockBack => dice.millis(100, 20_000),
                _ => dice.millis(100, 12_000),
            };
            let at = dice.millis(10, 30_000);
            self.events.push(Event { at, fault, gateway: dice.below(self.gateways), lasting });
        }
    }

    /// How often `fault` strikes, in a thousand.
    #[must_use]
    pub fn rate(&self, fault: Fault) -> u64 {
        self.rates.get(&fault).copied().unwrap_or(0)
    }

    /// The one of `kind` that strikes now, if any does.
    pub fn strike(&self, kind: Kind, dice: &mut Chance) -> Option<Fault> {
        let mut struck = None;
        for (fault, rate) in self.rates.iter().filter(|(fault, _)| fault.kind() == kind) {
            if dice.permille(*rate) && struck.is_none() {
                struck = Some(*fault);
            }
        }
        struck
    }

    /// Whether `fault` happens at some moment.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.events.iter().any(|event| event.fault == fault)
    }

    /// The policy for doubts.
    #[must_use]
    pub fn on_doubt(&self) -> OnDoubt {
        match self.mode {
            Mode::Hold => OnDoubt::Hold,
            Mode::Retry | Mode::PassThrough | Mode::Fenced => OnDoubt::Retry,
            Mode::Probe => OnDoubt::Probe,
        }
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {:?}, duplicates {:?}", self.seed, self.mode, self.on_duplicate)?;
        if self.gentle {
            writeln!(f, "  gentle: no doubt may be left")?;
        }
        writeln!(f, "  {} gateways, {} calls within {:?}", self.gateways, self.calls, self.spread)?;
        writeln!(f, "  lease {:?}, retention {:?}, wait {:?}", self.lease, self.retention, self.wait)?;
        writeln!(
            f,
            "  store timeout {:?}, upstream timeout {:?}",
            self.store_timeout, self.upstream_timeout
        )?;
        for (fault, rate) in &self.rates {
            writeln!(f, "  {rate:>4} in 1000  {fault}")?;
        }
        for Event { at, fault, gateway, lasting } in &self.events {
            writeln!(f, "  at {at:?}  {fault} (gateway {gateway}, {lasting:?})")?;
        }
        if let Some(plant) = self.plant {
            writeln!(f, "  planted: {plant:?}")?;
        }
        Ok(())
    }
}
