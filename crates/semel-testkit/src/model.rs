//! The model: a few executors, keys and an operator at one store, with every order of claims, effects, replies that
//! are lost or late, pauses, crashes, lapses and purges, searched exhaustively (stateright).
//!
//! The store of the model takes each step with the pure transitions of [`semel::record`], through the same
//! [`Call`](crate::check::Call) as the checker and the conformance suite: there is no second copy that could drift. What
//! is modelled besides is what the engine does around them, in [`steps`]. [`plant`] puts faults around the transitions,
//! to show that the search sees them.
//!
//! Not a model of payloads, tenants or HTTP, and not of a store that forgets what it acknowledged. Next: [`world`].

pub mod plant;
pub mod row;
pub mod steps;
mod symmetry;
pub mod world;

use stateright::{Checker, HasDiscoveries, Model, Property};

pub use plant::Plant;
pub use world::{Broken, Shape, World};

use steps::Step;
use world::Doing;

/// A world of this shape, with or without a planted fault.
#[derive(Clone, Debug)]
pub struct Machine {
    /// How much of everything there is.
    pub shape: Shape,
    /// The fault, if there is one.
    pub plant: Option<Plant>,
    pub(crate) keys: Vec<row::Template>,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// How many different states there are.
    pub states: usize,
    /// How many transitions were taken to reach them.
    pub transitions: usize,
    /// The length of the longest shortest way to a state.
    pub depth: usize,
    /// What does not hold, with the steps that lead there.
    pub broken: Option<(&'static str, Vec<String>)>,
    /// What never comes about, although it should be possible.
    pub never: Vec<&'static str>,
}

const ALWAYS: [&str; 3] = [
    "G1: one claim is alive, a stale one writes nothing, tokens grow",
    "G2: a completed record is not claimed before its expiry and never shows another outcome",
    "G7: under hold the effect happens at most once",
];

impl Machine {
    /// Without a fault.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self { shape, plant: None, keys: (0..shape.keys).map(row::Template::of_key).collect() }
    }

    /// With a fault.
    #[must_use]
    pub fn with(self, plant: Plant) -> Self {
        Self { plant: Some(plant), ..self }
    }

    /// Looks at every state that can be reached, with so many threads, up to the first that breaks a guarantee.
    #[must_use]
    pub fn search(self, threads: usize) -> Found {
        let first = HasDiscoveries::AnyFailures;
        let checker = self.checker().threads(threads).finish_when(first).spawn_bfs().join();
        let mut found = Found {
            states: checker.unique_state_count(),
            transitions: checker.state_count(),
            depth: checker.max_depth(),
            broken: None,
            never: Vec::new(),
        };
        let discoveries = checker.discoveries();
        for property in checker.model().properties() {
            let path = discoveries.get(property.name);
            match (ALWAYS.contains(&property.name), path) {
                (true, Some(path)) if found.broken.is_none() => {
                    let steps = path.clone().into_actions().iter().map(|step| format!("{step:?}")).collect();
                    found.broken = Some((property.name, steps));
                }
                (false, None) => found.never.push(property.name),
                _ => {}
            }
        }
        found
    }
}

impl Model for Machine {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.shape)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.broken.is_none() {
            self.possible(world, steps);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        self.take(&mut next, step);
        (next != *world).then(|| symmetry::representative(next, self.shape))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ALWAYS[0], |_, world: &World| {
                let stale = matches!(world.broken, Some(Broken::StaleWrite | Broken::TokenRepeats));
                !stale && (0..world.rows.len()).all(|key| world.alive(key) <= 1)
            }),
            Property::always(ALWAYS[1], |_, world: &World| {
                !matches!(world.broken, Some(Broken::ClaimedAgain | Broken::AnotherOutcome))
            }),
            Property::always(ALWAYS[2], |_, world: &World| world.broken != Some(Broken::SecondEffect)),
            Property::sometimes("a doubt is taken over", |_, world: &World| {
                world.rows.iter().flatten().any(|row| row.generation == 2)
            }),
            Property::sometimes("an outcome is kept", |_, world: &World| {
                world.keys.iter().any(|key| key.kept.is_some())
            }),
            Property::sometimes("a record is absent again", |_, world: &World| {
                (0..world.rows.len()).any(|key| world.rows[key].is_none() && world.keys[key].newest > 0)
            }),
            Property::sometimes(
                "a second claim is made after the first was forgotten",
                |_, world: &World| {
                    world.executors.iter().any(|executor| match executor.doing {
                        Doing::Holding { forgotten, .. } => forgotten,
                        _ => false,
                    })
                },
            ),
        ]
    }
}
