//! Executors are alike: of all worlds that differ only in who is who, one stands for the others, so that six times
//! fewer of three executors have to be looked at.
//!
//! An attempt's number says whose it is, so it is renamed wherever it stands. Next: [`super::world`].

use super::row::{Held, Row, Stands};
use super::world::{Doing, Sent, Shape, World};

/// Who becomes whom.
struct Renaming<'a> {
    /// The new place of each executor.
    places: &'a [u8],
    asks: u8,
}

impl Renaming<'_> {
    /// Attempts are numbered from 1, so many for each executor. What lies beyond is the operator's.
    fn attempt(&self, attempt: u8) -> u8 {
        let Some(index) = attempt.checked_sub(1) else { return attempt };
        let (whose, nth) = (index / self.asks, index % self.asks);
        self.places.get(usize::from(whose)).map_or(attempt, |place| 1 + place * self.asks + nth)
    }

    fn held(&self, held: Held) -> Held {
        Held { attempt: self.attempt(held.attempt), ..held }
    }

    fn sent(&self, sent: Sent) -> Sent {
        match sent {
            Sent::Claim { key, attempt } => Sent::Claim { key, attempt: self.attempt(attempt) },
            Sent::Renew { key, held } => Sent::Renew { key, held: self.held(held) },
            Sent::Complete { key, held } => Sent::Complete { key, held: self.held(held) },
            Sent::Doubt { key, held } => Sent::Doubt { key, held: self.held(held) },
            Sent::Release { key, held } => Sent::Release { key, held: self.held(held) },
        }
    }

    fn doing(&self, doing: Doing) -> Doing {
        match doing {
            Doing::Idle => Doing::Idle,
            Doing::Asking { key, attempt } => Doing::Asking { key, attempt: self.attempt(attempt) },
            Doing::Looking { key, attempt } => Doing::Looking { key, attempt: self.attempt(attempt) },
            Doing::Holding { key, held, generation, until, ran, forgotten } => {
                Doing::Holding { key, held: self.held(held), generation, until, ran, forgotten }
            }
            Doing::Settling(sent) => Doing::Settling(self.sent(sent)),
        }
    }

    fn row(&self, row: Row) -> Row {
        let stands = match row.stands {
            Stands::Completed { value, expires_at } => {
                Stands::Completed { value: self.attempt(value), expires_at }
            }
            other => other,
        };
        Row { guard: self.held(row.guard), stands, ..row }
    }

    fn world(&self, world: &World) -> World {
        let mut renamed = world.clone();
        for (executor, place) in world.executors.iter().zip(self.places) {
            let mut executor = *executor;
            executor.doing = self.doing(executor.doing);
            renamed.executors[usize::from(*place)] = executor;
        }
        renamed.rows.iter_mut().flatten().for_each(|row| *row = self.row(*row));
        renamed.late.iter_mut().for_each(|sent| *sent = self.sent(*sent));
        renamed.late.sort_unstable();
        renamed.operator.1 = renamed.operator.1.map(|(key, held)| (key, self.held(held)));
        for kept in renamed.keys.iter_mut().filter_map(|key| key.kept.as_mut()) {
            kept.0 = self.attempt(kept.0);
        }
        renamed
    }
}

/// The world that stands for this one.
pub(super) fn representative(world: World, shape: Shape) -> World {
    let renamed = |places: Vec<u8>| Renaming { places: &places, asks: shape.asks }.world(&world);
    let least = permutations(shape.executors).into_iter().map(renamed).min();
    least.filter(|least| *least < world).unwrap_or(world)
}

/// Every order of so many executors but their own.
fn permutations(executors: u8) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![Vec::new()];
    for _ in 0..executors {
        let longer = |some: &Vec<u8>| {
            let free = (0..executors).filter(|place| !some.contains(place));
            free.map(|place| [some.as_slice(), &[place]].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all.remove(0);
    all
}
