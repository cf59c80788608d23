//! A caller that can send what no generated client would.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use jobgate_proto::admission::v1::{AdmitRequest, AdmitResponse};
use prost::Message;
use tokio::time::timeout;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{ClientTls, Token, error::chain};

/// What a controller may take beyond a question's time: the way there and back, on a slow machine.
pub(super) const SLACK: Duration = Duration::from_secs(1);

const ADMIT: &str = "/jobgate.admission.v1.AdmissionController/Admit";

pub(super) struct Client {
    endpoint: Endpoint,
    pub(super) channel: Channel,
    authorization: Option<MetadataValue<Ascii>>,
}

/// Why a question has no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// None came in its time.
    Late(Duration),
    /// A gRPC status came.
    Status(Status),
    /// What came is no `AdmitResponse`.
    Garbled(prost::DecodeError),
}

impl Unanswered {
    pub(super) fn code(&self) -> Option<Code> {
        match self {
            Self::Status(status) => Some(status.code()),
            _ => None,
        }
    }

    pub(super) fn found(&self) -> String {
        match self {
            Self::Late(limit) => format!("no answer within {limit:?}"),
            Self::Status(status) => format!("gRPC status {:?}: {}", status.code(), status.message()),
            Self::Garbled(error) => format!("the answer is no AdmitResponse: {error}"),
        }
    }
}

impl Client {
    pub(super) async fn connect(url: &str, token: Option<&Token>, tls: &ClientTls) -> Result<Self, String> {
        let authorization = match token {
            Some(token) => token.read().await.map_err(|error| chain(&error))?.header(),
            None => None,
        };
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|_| format!("`{url}` is no address"))?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true);
        if endpoint.uri().scheme_str() == Some("https") {
            let config = tls.config().map_err(|error| chain(&error))?;
            endpoint = endpoint.tls_config(config).map_err(|error| chain(&error))?;
        }
        let channel = endpoint.connect().await.map_err(|error| chain(&error))?;
        Ok(Self { endpoint, channel, authorization })
    }

    /// The same caller over another connection.
    pub(super) async fn again(&self) -> Result<Self, String> {
        let channel = self.endpoint.connect().await.map_err(|error| chain(&error))?;
        Ok(Self { endpoint: self.endpoint.clone(), channel, authorization: self.authorization.clone() })
    }

    pub(super) fn has_token(&self) -> bool {
        self.authorization.is_some()
    }

    /// The same caller without its token.
    pub(super) fn without_token(self) -> Self {
        Self { authorization: None, ..self }
    }

    pub(super) async fn ask(&self, question: &AdmitRequest) -> Result<AdmitResponse, Unanswered> {
        let time_left = question.time_left.and_then(|left| left.try_into().ok()).unwrap_or(Duration::ZERO);
        self.ask_raw(question.encode_to_vec().into(), time_left).await
    }

    pub(super) async fn ask_raw(&self, question: Bytes, time_left: Duration) -> Result<AdmitResponse, Unanswered> {
        let limit = time_left + SLACK;
        let mut request = Request::new(question);
        request.set_timeout(limit);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(16 << 20);
        let call = async move {
            let ready = grpc.ready().await;
            ready.map_err(|error| Status::unavailable(chain(&error)))?;
            grpc.unary(request, PathAndQuery::from_static(ADMIT), Raw).await
        };
        match timeout(limit, call).await {
            Ok(Ok(answer)) => AdmitResponse::decode(answer.into_inner()).map_err(Unanswered::Garbled),
            Ok(Err(status)) => Err(Unanswered::Status(status)),
            Err(_) => Err(Unanswered::Late(limit)),
        }
    }
}

/// Bytes as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
