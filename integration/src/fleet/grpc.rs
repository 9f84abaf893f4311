//! A gRPC service on tonic, written by hand where a generator would write it: `test.Numbers`.
//!
//! | method | kind | it |
//! | --- | --- | --- |
//! | `Double` | unary | doubles a number; of 0 it fails with `INVALID_ARGUMENT` and metadata |
//! | `CountTo` | server streaming | counts from 1 to a number; with the note `break` it fails half way with `ABORTED` |
//! | `Sum` | client streaming | adds up |
//! | `Echo` | bidirectional | sends each number back as it comes |
//! | `Never` | unary | never answers, for deadlines |
//!
//! And `grpc.health.v1.Health`, whose `Check` says what `State::serving` does.

use super::State;
use crate::BoxError;
use crate::body::Body;
use futures_util::stream::{self, BoxStream, StreamExt};
use http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use tonic::server::{ClientStreamingService, Grpc, ServerStreamingService, StreamingService, UnaryService};
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

/// The one message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Number {
    /// A number.
    #[prost(uint64, tag = "1")]
    pub value: u64,
    /// Words.
    #[prost(string, tag = "2")]
    pub note: String,
}

impl Number {
    /// A number without words.
    #[must_use]
    pub fn of(value: u64) -> Self {
        Self { value, note: String::new() }
    }
}

/// The codec of both sides.
pub type NumberCodec = ProstCodec<Number, Number>;
type Pending<T> = Pin<Box<dyn Future<Output = Result<tonic::Response<T>, Status>> + Send>>;
type Numbers = BoxStream<'static, Result<Number, Status>>;

struct Double;
struct Check(Arc<State>);
struct Never;
struct CountTo;
struct Sum;
struct Echo(Arc<State>);

impl UnaryService<Number> for Double {
    type Response = Number;
    type Future = Pending<Number>;

    fn call(&mut self, request: tonic::Request<Number>) -> Self::Future {
        Box::pin(async move {
            let metadata = request.metadata().get("x-tag").cloned();
            let number = request.into_inner();
            if number.value == 0 {
                let mut status = Status::with_details(Code::InvalidArgument, "zero: ünd %", vec![1, 2, 3].into());
                status.metadata_mut().insert("x-why", tonic::metadata::MetadataValue::from_static("because"));
                return Err(status);
            }
            let mut response = tonic::Response::new(Number { value: number.value * 2, ..number });
            if let Some(tag) = metadata {
                response.metadata_mut().insert("x-tag", tag);
            }
            Ok(response)
        })
    }
}

/// grpc.health.v1.HealthCheckRequest.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthAsked {
    #[prost(string, tag = "1")]
    service: String,
}

/// grpc.health.v1.HealthCheckResponse.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthSaid {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl UnaryService<HealthAsked> for Check {
    type Response = HealthSaid;
    type Future = Pending<HealthSaid>;

    fn call(&mut self, request: tonic::Request<HealthAsked>) -> Self::Future {
        let status = if self.0.serving.load(SeqCst) { 1 } else { 2 };
        let known = request.into_inner().service.is_empty();
        Box::pin(async move {
            let said = || tonic::Response::new(HealthSaid { status });
            known.then(said).ok_or_else(|| Status::not_found("no such service"))
        })
    }
}

impl UnaryService<Number> for Never {
    type Response = Number;
    type Future = Pending<Number>;

    fn call(&mut self, _: tonic::Request<Number>) -> Self::Future {
        Box::pin(std::future::pending())
    }
}

impl ServerStreamingService<Number> for CountTo {
    type Response = Number;
    type ResponseStream = Numbers;
    type Future = Pending<Numbers>;

    fn call(&mut self, request: tonic::Request<Number>) -> Self::Future {
        let Number { value, note } = request.into_inner();
        let numbers = match note.as_str() {
            "break" => {
                let half = stream::iter((1..=value / 2).map(|n| Ok(Number::of(n))));
                half.chain(stream::once(async { Err(Status::aborted("half way")) })).boxed()
            }
            _ => stream::iter((1..=value).map(|n| Ok(Number::of(n)))).boxed(),
        };
        Box::pin(async move { Ok(tonic::Response::new(numbers)) })
    }
}

impl ClientStreamingService<Number> for Sum {
    type Response = Number;
    type Future = Pending<Number>;

    fn call(&mut self, request: tonic::Request<Streaming<Number>>) -> Self::Future {
        Box::pin(async move {
            let mut numbers = request.into_inner();
            let mut sum = 0;
            while let Some(number) = numbers.message().await? {
                sum += number.value;
            }
            Ok(tonic::Response::new(Number::of(sum)))
        })
    }
}

impl StreamingService<Number> for Echo {
    type Response = Number;
    type ResponseStream = Numbers;
    type Future = Pending<Numbers>;

    fn call(&mut self, request: tonic::Request<Streaming<Number>>) -> Self::Future {
        // The state lives as long as the stream, so that a call which is given up shows.
        let state = self.0.clone();
        let numbers = request.into_inner().map(move |number| {
            let _ = &state;
            number
        });
        Box::pin(async move { Ok(tonic::Response::new(numbers.boxed())) })
    }
}

/// Whether a request is gRPC.
pub(super) fn is(request: &Request<Incoming>) -> bool {
    request.headers().get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

/// The service.
pub(super) async fn answer(state: &Arc<State>, request: Request<Incoming>) -> Response<Body> {
    let mut grpc = Grpc::new(NumberCodec::default());
    let response = match request.uri().path() {
        "/test.Numbers/Double" => grpc.unary(Double, request).await,
        "/test.Numbers/CountTo" => grpc.server_streaming(CountTo, request).await,
        "/test.Numbers/Sum" => grpc.client_streaming(Sum, request).await,
        "/test.Numbers/Echo" => grpc.streaming(Echo(state.clone()), request).await,
        "/test.Numbers/Never" => grpc.unary(Never, request).await,
        "/grpc.health.v1.Health/Check" => {
            Grpc::new(ProstCodec::<HealthSaid, HealthAsked>::default()).unary(Check(state.clone()), request).await
        }
        _ => Status::unimplemented("no such method").into_http(),
    };
    response.map(|body: tonic::body::Body| body.map_err(|e| -> BoxError { e.into() }).boxed_unsync())
}
