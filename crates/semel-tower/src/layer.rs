//! The layer: engine and routes, put around a service. Next: [`crate::service`].

use std::sync::Arc;

use semel::Engine;
use tower::Layer;

use crate::route::{Route, Routes};
use crate::service::{Decisions, SemelService, Unobserved};

/// Makes covered requests of the service inside take effect once.
#[derive(Clone, Debug)]
pub struct SemelLayer {
    engine: Engine,
    routes: Arc<Routes>,
    decisions: Arc<dyn Decisions>,
}

impl SemelLayer {
    /// Covers POST, PUT, PATCH and DELETE on every path with the default settings.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self::with_routes(engine, Routes::new(Route::default()))
    }

    /// Covers what `routes` say.
    #[must_use]
    pub fn with_routes(engine: Engine, routes: Routes) -> Self {
        Self { engine, routes: Arc::new(routes), decisions: Arc::new(Unobserved) }
    }

    /// Tells `decisions` what became of each request.
    #[must_use]
    pub fn observed_by(mut self, decisions: Arc<dyn Decisions>) -> Self {
        self.decisions = decisions;
        self
    }
}

impl<S> Layer<S> for SemelLayer {
    type Service = SemelService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SemelService::new(inner, self.engine.clone(), Arc::clone(&self.routes), Arc::clone(&self.decisions))
    }
}
