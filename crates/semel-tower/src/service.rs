//! The service: what becomes of one request, from the route to the answer.
//!
//! ```text
//! call -> route covers it?  no: passed on as a stream, untouched
//!      -> prepare: key, tenant, body, fingerprint      -> 400 403 408 413 425
//!      -> Engine::begin                                 -> replay, 409, 422, 429, 503
//!      -> run, with or without its caller: effect, capture, complete, answer
//! ```
//!
//! A caller that hangs up while the effect runs changes nothing. Next: [`crate::capture`], [`crate::replay`].

mod prepare;
mod run;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, request};
use http_body::Body as HttpBody;
use semel::detached::Detached;
use semel::error::error_chain;
use semel::wire::Status;
use semel::{Begun, Code, Engine, Key, Record, RecordId, Refusal};
use serde_json::json;
use tokio::time::Instant;
use tower::Service;
use tracing::Instrument;

use crate::body::Body;
use crate::grpc;
use crate::problem::Problem;
use crate::replay::{self, Marks};
use crate::route::{OnStoreDown, Route, Routes};
use prepare::{Prepared, Ready};

/// What the inner service knows about an effect better than its status says, as a response extension. With a
/// [`Problem`] as a second one, the answer is worded as the route's profile and the caller's protocol say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EffectReport {
    /// It certainly did not happen: nothing was sent.
    NotRun,
    /// It may have happened: the answer is not the effect's own.
    Unknown,
}

/// What became of a request, for metrics and logs.
#[derive(Clone, Copy, Debug)]
pub struct Decided<'a> {
    /// What the answer is; `None` when the request was passed on unprotected.
    pub status: Option<Status>,
    /// Why it was refused, if it was.
    pub code: Option<Code>,
    /// The record, where the request named one.
    pub id: Option<&'a RecordId>,
    /// How many times the record was claimed afresh; 0 when this request did not claim.
    pub generation: u32,
    /// The method.
    pub method: &'a Method,
    /// The path.
    pub path: &'a str,
    /// Whether the route covers the request.
    pub covered: bool,
    /// The HTTP status of the answer.
    pub http_status: u16,
    /// From the request's head to the answer's.
    pub took: Duration,
}

/// Who is told what became of each request. Must not block.
pub trait Decisions: Send + Sync + fmt::Debug + 'static {
    /// Called once for each request that was answered.
    fn decided(&self, decided: &Decided<'_>);
}

#[derive(Debug)]
pub(crate) struct Unobserved;

impl Decisions for Unobserved {
    fn decided(&self, _decided: &Decided<'_>) {}
}

/// Made by [`SemelLayer`](crate::SemelLayer).
#[derive(Clone, Debug)]
pub struct SemelService<S> {
    inner: S,
    engine: Engine,
    routes: Arc<Routes>,
    decisions: Arc<dyn Decisions>,
}

impl<S> SemelService<S> {
    pub(crate) fn new(inner: S, engine: Engine, routes: Arc<Routes>, decisions: Arc<dyn Decisions>) -> Self {
        Self { inner, engine, routes, decisions }
    }
}

/// An answer whose body is whole, or streams from the inner service.
pub type Answer<B> = Response<Body<Pin<Box<B>>>>;

impl<S, Q, A> Service<Request<Q>> for SemelService<S>
where
    S: Service<Request<Body<Q>>, Response = Response<A>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: fmt::Display + Send + 'static,
    Q: HttpBody<Data = Bytes> + Send + 'static,
    Q::Error: fmt::Display,
    A: HttpBody<Data = Bytes> + Send + 'static,
    A::Error: fmt::Display,
{
    type Response = Answer<A>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer<A>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        // The clone may not be ready; the one that was polled is.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let started = Instant::now();
        let Some(route) = self.routes.find(request.method(), request.uri().path()).map(Arc::clone) else {
            let decisions = Arc::clone(&self.decisions);
            let (method, path) = (request.method().clone(), request.uri().clone());
            let passing = inner.call(request.map(Body::stream));
            return Box::pin(async move {
                let answer = passing.await?;
                let passed = Decided {
                    status: None,
                    code: None,
                    id: None,
                    generation: 0,
                    method: &method,
                    path: path.path(),
                    covered: false,
                    http_status: answer.status().as_u16(),
                    took: started.elapsed(),
                };
                decisions.decided(&passed);
                Ok(answer.map(|body| Body::stream(Box::pin(body))))
            });
        };
        let call = Arc::new(Call {
            engine: self.engine.clone(),
            route,
            decisions: Arc::clone(&self.decisions),
            method: request.method().clone(),
            uri: request.uri().clone(),
            grpc: grpc::is_grpc(request.headers()),
            started,
        });
        Box::pin(call.handle(inner, request))
    }
}

/// One covered request.
struct Call {
    engine: Engine,
    route: Arc<Route>,
    decisions: Arc<dyn Decisions>,
    method: Method,
    uri: http::Uri,
    grpc: bool,
    started: Instant,
}

impl Call {
    async fn handle<S, Q, A>(
        self: Arc<Self>,
        mut inner: S,
        request: Request<Q>,
    ) -> Result<Answer<A>, S::Error>
    where
        S: Service<Request<Body<Q>>, Response = Response<A>> + Send + 'static,
        S::Future: Send,
        S::Error: fmt::Display + Send + 'static,
        Q: HttpBody<Data = Bytes> + Send + 'static,
        Q::Error: fmt::Display,
        A: HttpBody<Data = Bytes> + Send + 'static,
        A::Error: fmt::Display,
    {
        match prepare::prepare(&self.route, request).await {
            Prepared::Pass(mut request) => {
                // An upstream that checks tokens must not be shown one that a client made up.
                replay::strip_marks(request.headers_mut());
                let answer = inner.call(request).await?;
                // What has no key has no record, and runs again when it is sent again.
                let status = match answer.extensions().get::<EffectReport>() {
                    Some(EffectReport::NotRun) => Status::Refused,
                    Some(EffectReport::Unknown) | None => Status::Unrecorded,
                };
                let mut answer = self.worded(answer);
                let marks = Marks { status, key: None, expires_at: None };
                replay::mark_fresh(answer.headers_mut(), &self.route.profile, &marks);
                Ok(self.tell(answer, None, None, None, 0))
            }
            Prepared::Refused(problem, key) => Ok(self.refuse(problem, key.as_ref(), None)),
            Prepared::Ready(ready) => self.decide(inner, ready).await,
        }
    }

    async fn decide<S, Q, A>(self: Arc<Self>, inner: S, ready: Box<Ready>) -> Result<Answer<A>, S::Error>
    where
        S: Service<Request<Body<Q>>, Response = Response<A>> + Send + 'static,
        S::Future: Send,
        S::Error: fmt::Display + Send + 'static,
        Q: HttpBody<Data = Bytes> + Send + 'static,
        A: HttpBody<Data = Bytes> + Send + 'static,
        A::Error: fmt::Display,
    {
        let id = ready.ask.id.clone();
        match self.engine.begin(ready.ask.clone()).await {
            Ok(Begun::Run(claim)) => {
                let running = Arc::clone(&self).run(inner, claim, ready).in_current_span();
                match Detached::new(running).await {
                    Ok(answer) => Ok(answer),
                    Err(stopped) => {
                        tracing::error!(error = %stopped, "the effect ended without an answer");
                        let detail = "The handler of this request ended without an answer. Ask whether it took \
                                      effect before sending it under another key.";
                        Ok(self.doubt(Problem::new(Code::UpstreamFailed, detail), &id))
                    }
                }
            }
            Ok(Begun::Replay(record)) => Ok(self.replay(&record, Some(&ready.parts)).await),
            Ok(Begun::Refuse(refusal)) => Ok(self.refuse_for(&refusal, &id)),
            Err(error)
                if self.route.on_store_down == OnStoreDown::Run && error.code() == Code::StoreUnavailable =>
            {
                tracing::warn!(error = %error_chain(&error), "the store is unreachable; running unprotected");
                Box::pin(self.run_unprotected(inner, ready)).await
            }
            Err(error) if error.code() == Code::RecordUnreadable => {
                tracing::error!(error = %error_chain(&error), "the record cannot be read; refused");
                let detail = "Something is stored under this key and cannot be read. Nothing was run, and sending \
                              again changes nothing until the operator of this service has mended it.";
                Ok(self.refuse(Problem::new(Code::RecordUnreadable, detail), Some(id.key()), Some(&id)))
            }
            Err(error) => {
                tracing::error!(error = %error_chain(&error), "the store is unreachable; refused");
                let detail = "Nothing was run and nothing was stored. Send the same request again, with the same \
                              key, after the time in Retry-After.";
                Ok(self.refuse(Problem::new(Code::StoreUnavailable, detail), Some(id.key()), Some(&id)))
            }
        }
    }

    /// The stored answer, if the caller of `request` may still see it. Without a request nobody may where that is asked.
    async fn replay<B>(&self, record: &Arc<Record>, request: Option<&request::Parts>) -> Answer<B> {
        let may_see = match (&self.route.authorize, request) {
            (None, _) => true,
            (Some(authorize), Some(request)) => authorize.may_see(request).await,
            (Some(_), None) => false,
        };
        if !may_see {
            let detail = "The stored outcome exists and your credentials no longer allow it to be shown. Nothing was run.";
            return self.refuse(
                Problem::new(Code::NotAuthorised, detail),
                Some(record.id.key()),
                Some(&record.id),
            );
        }
        self.replay_allowed(record)
    }

    fn replay_allowed<B>(&self, record: &Arc<Record>) -> Answer<B> {
        let key = record.id.key();
        let Some(outcome) = record.outcome() else {
            return self.refuse_for(&Refusal::InDoubt(Some(Arc::clone(record))), &record.id);
        };
        if !outcome.body_kept {
            let detail = "The request took effect and will not run again. Its answer was larger than what is kept; \
                          read the resource instead.";
            let mut problem = Problem::new(Code::AnswerNotKept, detail);
            problem.members.push(("original_status", json!(outcome.code)));
            problem.location = replay::stored_headers(outcome).remove(http::header::LOCATION);
            return self.mark(problem, Status::Replayed, Some(key), Some(&record.id));
        }
        let expires_at = replay::expires_at(record, &self.route);
        let marks = Marks { status: Status::Replayed, key: Some(key), expires_at };
        match replay::replay(outcome, &self.route.profile, &marks) {
            Some(answer) => self.tell(answer, Some(Status::Replayed), None, Some(&record.id), 0),
            None => {
                tracing::error!(record = %record.id.digest(), "the stored answer cannot be read");
                let detail =
                    "The request took effect and its stored answer cannot be read. It will not run again.";
                self.mark(
                    Problem::new(Code::AnswerNotKept, detail),
                    Status::Refused,
                    Some(key),
                    Some(&record.id),
                )
            }
        }
    }

    fn refuse_for<B>(&self, refusal: &Refusal, id: &RecordId) -> Answer<B> {
        let detail = match refusal {
            Refusal::Mismatch(semel::fingerprint::Difference::Target) => {
                "This key was used with another method, path or query. Nothing was run. Send this request under a \
                 key of its own."
            }
            Refusal::Mismatch(semel::fingerprint::Difference::Payload) => {
                "This key was used with another payload. Nothing was run. A corrected request is a new request: \
                 send it under a new key."
            }
            Refusal::InProgress => {
                "Nothing was run a second time. Send the same request again, with the same key, after the time in \
                 Retry-After, to get its outcome."
            }
            Refusal::InDoubt(_) => {
                "An earlier attempt was sent and gave no outcome; it may have taken effect, and it will not be run \
                 again by itself. Sending again with this key is harmless and gives the outcome once it is known. \
                 Do not send it under another key before you have asked whether it took effect."
            }
            Refusal::Quota => {
                "Too many requests of this caller are in flight or wait for this key. Nothing was run. Send again, \
                 with the same key, after the time in Retry-After."
            }
        };
        let status = match refusal {
            Refusal::InProgress => Status::InProgress,
            Refusal::InDoubt(_) => Status::InDoubt,
            Refusal::Mismatch(_) | Refusal::Quota => Status::Refused,
        };
        self.mark(Problem::new(refusal.code(), detail), status, Some(id.key()), Some(id))
    }

    fn refuse<B>(&self, problem: Problem, key: Option<&Key>, id: Option<&RecordId>) -> Answer<B> {
        self.mark(problem, Status::Refused, key, id)
    }

    fn doubt<B>(&self, problem: Problem, id: &RecordId) -> Answer<B> {
        self.mark(problem, Status::InDoubt, Some(id.key()), Some(id))
    }

    fn mark<B>(
        &self,
        problem: Problem,
        status: Status,
        key: Option<&Key>,
        id: Option<&RecordId>,
    ) -> Answer<B> {
        let code = problem.code;
        let mut answer = if self.grpc { grpc::refuse(&problem) } else { problem.answer(&self.route.profile) };
        let marks = Marks { status, key, expires_at: None };
        replay::mark_fresh(answer.headers_mut(), &self.route.profile, &marks);
        self.tell(answer, Some(status), Some(code), id, 0)
    }

    /// An answer of the inner service; a problem that it met is told as this route and protocol tell it.
    fn worded<A>(&self, answer: Response<A>) -> Answer<A> {
        match answer.extensions().get::<Problem>() {
            Some(problem) if self.grpc => grpc::refuse(problem),
            Some(problem) => problem.clone().answer(&self.route.profile),
            None => answer.map(|body| Body::stream(Box::pin(body))),
        }
    }

    /// Every answer leaves through here.
    fn tell<B>(
        &self,
        answer: Answer<B>,
        status: Option<Status>,
        code: Option<Code>,
        id: Option<&RecordId>,
        generation: u32,
    ) -> Answer<B> {
        self.decisions.decided(&Decided {
            status,
            code,
            id,
            generation,
            method: &self.method,
            path: self.uri.path(),
            covered: true,
            http_status: answer.status().as_u16(),
            took: self.started.elapsed(),
        });
        answer
    }
}
