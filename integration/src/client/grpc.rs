//! A gRPC client on tonic, for the service in [`crate::fleet::grpc`].

use crate::BoxError;
use crate::fleet::grpc::{Number, NumberCodec};
use futures_util::Stream;
use http::uri::PathAndQuery;
use std::net::SocketAddr;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

/// A client on one HTTP/2 connection.
#[derive(Debug, Clone)]
pub struct Client(Grpc<Channel>);

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(address: SocketAddr) -> Result<Self, BoxError> {
        Ok(Self(Grpc::new(Endpoint::from_shared(format!("http://{address}"))?.connect().await?)))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|e| Status::unavailable(format!("the channel: {e}")))
    }

    /// A unary call.
    ///
    /// # Errors
    /// The status that the call ended with.
    pub async fn unary(&mut self, method: &'static str, request: Request<Number>) -> Result<Response<Number>, Status> {
        self.ready().await?;
        self.0.unary(request, PathAndQuery::from_static(method), NumberCodec::default()).await
    }

    /// A server streaming call: the numbers, and the status that the stream ended with.
    ///
    /// # Errors
    /// The status, where the call failed before its stream began.
    pub async fn count_to(&mut self, number: Number) -> Result<(Vec<u64>, Option<Status>), Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Numbers/CountTo");
        let response = self.0.server_streaming(Request::new(number), path, NumberCodec::default()).await?;
        let (mut numbers, mut stream) = (Vec::new(), response.into_inner());
        loop {
            match stream.message().await {
                Ok(Some(number)) => numbers.push(number.value),
                Ok(None) => return Ok((numbers, None)),
                Err(status) => return Ok((numbers, Some(status))),
            }
        }
    }

    /// A client streaming call.
    ///
    /// # Errors
    /// The status that the call ended with.
    pub async fn sum(&mut self, numbers: impl Stream<Item = Number> + Send + 'static) -> Result<u64, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Numbers/Sum");
        let response = self.0.client_streaming(Request::new(numbers), path, NumberCodec::default()).await?;
        Ok(response.into_inner().value)
    }

    /// A bidirectional call.
    ///
    /// # Errors
    /// The status, where the call failed before its stream began.
    pub async fn echo(
        &mut self,
        numbers: impl Stream<Item = Number> + Send + 'static,
    ) -> Result<Streaming<Number>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Numbers/Echo");
        Ok(self.0.streaming(Request::new(numbers), path, NumberCodec::default()).await?.into_inner())
    }
}
