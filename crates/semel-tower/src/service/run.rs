//! The holder of the claim: run the effect, store what it produced, then answer. Carried out to its end, so that a
//! caller that hangs up changes nothing.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response};
use http_body::Body as HttpBody;
use semel::policy::OnDoubt;
use semel::record::DoubtCause;
use semel::wire::{self, Status};
use semel::{Begun, Claim, Code, Completion, Record};
use tower::Service;

use super::prepare::Ready;
use super::{Answer, Call, EffectReport};
use crate::body::Body;
use crate::capture::{self, Captured};
use crate::grpc;
use crate::problem::Problem;
use crate::replay::{self, Marks};
use crate::route::{AnswerClass, KeySource, Probe, Probed};

const ATTEMPT: HeaderName = HeaderName::from_static(wire::ATTEMPT);
const TOKEN: HeaderName = HeaderName::from_static(wire::TOKEN);

/// What a request that lost its claim needs to ask for the outcome that took its place.
struct Again {
    ask: semel::Ask,
    /// Only where the route asks whether it may be shown.
    parts: Option<http::request::Parts>,
}

impl Call {
    pub(super) async fn run<S, Q, A>(
        self: Arc<Self>,
        mut inner: S,
        claim: Claim,
        ready: Box<Ready>,
    ) -> Answer<A>
    where
        S: Service<Request<Body<Q>>, Response = Response<A>>,
        S::Error: fmt::Display,
        A: HttpBody<Data = Bytes>,
        A::Error: fmt::Display,
    {
        let claim = match self.route.probe.as_ref().filter(|_| self.is_asked_first(&claim)) {
            None => claim,
            Some(probe) => match Box::pin(self.probe(claim, &ready, probe)).await {
                Ok(claim) => claim,
                Err(answer) => return *answer,
            },
        };
        claim.start();
        let parts = self.route.authorize.is_some().then(|| ready.parts.clone());
        let again = Box::new(Again { ask: ready.ask.clone(), parts });
        let request = self.request(*ready, Some(&claim));
        let answer = match inner.call(request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(%error, record = %claim.id().digest(), "the effect gave no answer");
                return Box::pin(self.no_answer(claim)).await;
            }
        };
        let (class, cause) = match answer.extensions().get::<EffectReport>() {
            Some(EffectReport::NotRun) => (AnswerClass::Released, DoubtCause::NoAnswer),
            Some(EffectReport::Unknown) => (AnswerClass::InDoubt, DoubtCause::NoAnswer),
            None => (self.route.classify(answer.status()), DoubtCause::FailedAnswer),
        };
        match class {
            AnswerClass::Released => Box::pin(self.released(claim, self.worded(answer))).await,
            AnswerClass::InDoubt => Box::pin(self.doubted(claim, cause, self.worded(answer))).await,
            AnswerClass::Stored => self.stored(claim, answer, again).await,
        }
    }

    /// Under *probe*, a record that was in doubt is asked about before it is run again.
    fn is_asked_first(&self, claim: &Claim) -> bool {
        claim.generation() > 1 && self.route.policy.on_doubt == OnDoubt::Probe
    }

    async fn probe<B>(
        &self,
        claim: Claim,
        ready: &Ready,
        probe: &Arc<dyn Probe>,
    ) -> Result<Claim, Box<Answer<B>>> {
        // From here on an abort is a doubt again, not a release.
        claim.start();
        match probe.ask(claim.id().key(), &ready.parts).await {
            Probed::NotHappened => Ok(claim),
            Probed::Happened(outcome) => match claim.complete(outcome).await {
                Completion::Stored(record) | Completion::Superseded(Some(record)) => {
                    Err(Box::new(self.replay(&record, Some(&ready.parts)).await))
                }
                Completion::Superseded(None) | Completion::Unrecorded(_) => {
                    let detail = "The request took effect; its outcome could not be stored.";
                    Err(Box::new(self.doubt(Problem::new(Code::OutcomeUnknown, detail), &ready.ask.id)))
                }
            },
            Probed::Unknown => {
                claim.doubt(DoubtCause::NoAnswer).await;
                let refusal = semel::Refusal::InDoubt(None);
                Err(Box::new(self.refuse_for(&refusal, &ready.ask.id)))
            }
        }
    }

    /// The request as the inner service gets it: with key, attempt and token, and without copies of them that the
    /// client made up.
    fn request<Q>(&self, ready: Ready, claim: Option<&Claim>) -> Request<Body<Q>> {
        let Ready { ask, mut parts, bytes, trailers } = ready;
        replay::strip_marks(&mut parts.headers);
        let name = match &self.route.key {
            KeySource::Header(name) => name.clone(),
            KeySource::Body(_) => HeaderName::from_static(wire::KEY),
        };
        if let Some(value) = replay::key_value(ask.id.key()) {
            parts.headers.insert(name, value);
        }
        if let Some(claim) = claim {
            parts.headers.insert(ATTEMPT, HeaderValue::from(claim.generation()));
            parts.headers.insert(TOKEN, HeaderValue::from(claim.token().0));
        }
        if trailers.is_none() {
            parts.headers.remove(header::TRANSFER_ENCODING);
        }
        Request::from_parts(
            parts,
            Body::Whole { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()), trailers },
        )
    }

    async fn stored<A>(&self, claim: Claim, answer: Response<A>, again: Box<Again>) -> Answer<A>
    where
        A: HttpBody<Data = Bytes>,
        A::Error: fmt::Display,
    {
        let endless = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        let (parts, body) = answer.into_parts();
        let max_bytes = if endless { 0 } else { self.route.response_max_bytes };
        let captured = match endless {
            true => Captured::Large(Body::stream(Box::pin(body))),
            false => capture::capture(body, max_bytes, self.route.buffer_timeout).await,
        };
        let store = |body, trailers: Option<&HeaderMap>| {
            replay::store(parts.status, &parts.headers, body, trailers, &self.route)
        };
        let (outcome, body) = match captured {
            Captured::Whole { bytes, trailers } => {
                if grpc::is_grpc(&parts.headers) {
                    let class = grpc::classify(&parts.headers, trailers.as_ref());
                    let bytes = Some(bytes.clone()).filter(|bytes| !bytes.is_empty());
                    let body = Body::Whole { bytes, trailers: trailers.clone() };
                    match class {
                        Some(AnswerClass::Stored) => {}
                        Some(AnswerClass::Released) => {
                            return Box::pin(self.released(claim, Response::from_parts(parts, body))).await;
                        }
                        Some(AnswerClass::InDoubt) => {
                            let answer = Response::from_parts(parts, body);
                            return Box::pin(self.doubted(claim, DoubtCause::FailedAnswer, answer)).await;
                        }
                        None => return Box::pin(self.no_answer(claim)).await,
                    }
                }
                let outcome = store(Some(bytes.clone()), trailers.as_ref());
                (outcome, Body::Whole { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()), trailers })
            }
            Captured::Large(body) | Captured::Late(body) => (store(None, None), body),
            Captured::Broken(error) => {
                tracing::warn!(%error, record = %claim.id().digest(), "the answer broke off");
                return Box::pin(self.no_answer(claim)).await;
            }
        };
        let generation = claim.generation();
        let completion = claim.complete(outcome).await;
        self.completed(completion, generation, Response::from_parts(parts, body), again).await
    }

    /// The effect's own answer; what the winner stored, where the claim was lost meanwhile.
    async fn completed<A>(
        &self,
        completion: Completion,
        generation: u32,
        answer: Answer<A>,
        again: Box<Again>,
    ) -> Answer<A> {
        match completion {
            Completion::Stored(record) => {
                let expires_at = replay::expires_at(&record, &self.route);
                self.fresh(answer, Status::Executed, expires_at, &record.id, generation)
            }
            Completion::Superseded(standing) => match Box::pin(self.standing(standing, &again)).await {
                Some(standing) => standing,
                None => self.fresh(answer, Status::Unrecorded, None, &again.ask.id, generation),
            },
            Completion::Unrecorded(reason) => {
                tracing::error!(reason, record = %again.ask.id.digest(), "the outcome could not be stored");
                self.fresh(answer, Status::Unrecorded, None, &again.ask.id, generation)
            }
        }
    }

    /// What is stored for the same request, where that can be said.
    async fn standing<A>(&self, standing: Option<Arc<Record>>, again: &Again) -> Option<Answer<A>> {
        let Again { ask, parts } = again;
        if let Some(record) = standing.filter(|record| record.outcome().is_some() && same(ask, record)) {
            return Some(self.replay(&record, parts.as_ref()).await);
        }
        match self.engine.begin(ask.clone()).await {
            Ok(Begun::Replay(record)) => Some(self.replay(&record, parts.as_ref()).await),
            _ => None,
        }
    }

    async fn released<A>(&self, claim: Claim, answer: Answer<A>) -> Answer<A> {
        let (id, generation) = (claim.id().clone(), claim.generation());
        claim.release().await;
        self.fresh(answer, Status::Refused, None, &id, generation)
    }

    async fn doubted<A>(&self, claim: Claim, cause: DoubtCause, answer: Answer<A>) -> Answer<A> {
        let (id, generation) = (claim.id().clone(), claim.generation());
        claim.doubt(cause).await;
        self.fresh(answer, Status::InDoubt, None, &id, generation)
    }

    async fn no_answer<A>(&self, claim: Claim) -> Answer<A> {
        let id = claim.id().clone();
        claim.doubt(DoubtCause::NoAnswer).await;
        let detail = "The request was sent and no whole answer came back: it may have taken effect. It will not be \
                      run again by itself; sending again with this key is harmless.";
        self.doubt(Problem::new(Code::UpstreamFailed, detail), &id)
    }

    /// The effect without a claim, because the store is down and the route says so.
    pub(super) async fn run_unprotected<S, Q, A>(
        &self,
        mut inner: S,
        ready: Box<Ready>,
    ) -> Result<Answer<A>, S::Error>
    where
        S: Service<Request<Body<Q>>, Response = Response<A>>,
    {
        let id = ready.ask.id.clone();
        let request = self.request(*ready, None);
        let answer = self.worded(inner.call(request).await?);
        Ok(self.fresh(answer, Status::Unrecorded, None, &id, 0))
    }

    fn fresh<A>(
        &self,
        mut answer: Answer<A>,
        status: Status,
        expires_at: Option<semel::clock::Timestamp>,
        id: &semel::RecordId,
        generation: u32,
    ) -> Answer<A> {
        let marks = Marks { status, key: Some(id.key()), expires_at };
        replay::mark_fresh(answer.headers_mut(), &self.route.profile, &marks);
        self.tell(answer, Some(status), None, Some(id), generation)
    }
}

/// Whether a record that took the place of this request's claim was claimed by the same request.
fn same(ask: &semel::Ask, record: &Record) -> bool {
    ask.fingerprint.difference(&record.fingerprint, ask.policy.on_mismatch).is_none()
}
