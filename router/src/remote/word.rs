//! What goes out to controllers. Questions are encoded from what their admission shares: a chain of remote controllers does not
//! copy the job for each of them.

use std::time::Duration;

use jobgate_proto::admission::v1::{AdmitRequest, ControllerMessage, RouterMessage, router_message};
use jobgate_sdk::AdmissionRequest;
use prost::{
    Message,
    bytes::BufMut,
    encoding::{self, WireType},
};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstCodec;

/// Number of `RouterMessage.request`.
const REQUEST: u32 = 2;
/// Numbers of the parts of `AdmitRequest` that are shared.
const JOB: u32 = 3;
const PROJECT: u32 = 4;
const USER: u32 = 5;
const RUNNER: u32 = 6;

/// A question as an `AdmitRequest` on the wire.
pub(super) struct Question {
    request: AdmissionRequest,
    /// Everything but the shared parts.
    own: AdmitRequest,
}

/// What an attached controller is told.
pub(super) enum Word {
    Ask(Question),
    Say(router_message::Message),
}

/// Writes words, reads what controllers say.
pub(super) struct WordCodec;

pub(super) struct WordEncoder;

impl Question {
    /// This question, with so much time left.
    pub(super) fn new(request: &AdmissionRequest, left: Duration) -> Self {
        let question = request.question();
        let own = AdmitRequest {
            id: question.id.to_string(),
            admission_id: question.admission_id.to_string(),
            controller: question.controller.to_string(),
            scope: question.scope.to_string(),
            dry_run: question.dry_run,
            time: Some(question.time.into()),
            time_left: left.try_into().ok(),
            ..AdmitRequest::default()
        };
        Self { request: request.clone(), own }
    }

    fn encoded_len(&self) -> usize {
        let subject = self.request.subject();
        self.own.encoded_len()
            + encoding::message::encoded_len(JOB, &*subject.job)
            + encoding::message::encoded_len(PROJECT, &*subject.project)
            + subject.user.as_deref().map_or(0, |user| encoding::message::encoded_len(USER, user))
            + subject.runner.as_deref().map_or(0, |runner| encoding::message::encoded_len(RUNNER, runner))
    }

    fn encode(&self, out: &mut impl BufMut) {
        let subject = self.request.subject();
        self.own.encode_raw(out);
        encoding::message::encode(JOB, &*subject.job, out);
        encoding::message::encode(PROJECT, &*subject.project, out);
        if let Some(user) = &subject.user {
            encoding::message::encode(USER, &**user, out);
        }
        if let Some(runner) = &subject.runner {
            encoding::message::encode(RUNNER, &**runner, out);
        }
    }
}

impl Word {
    fn encode(&self, out: &mut impl BufMut) {
        match self {
            Self::Ask(question) => {
                encoding::encode_key(REQUEST, WireType::LengthDelimited, out);
                encoding::encode_varint(question.encoded_len() as u64, out);
                question.encode(out);
            }
            Self::Say(message) => message.encode(out),
        }
    }
}

impl Codec for WordCodec {
    type Encode = Word;
    type Decode = ControllerMessage;
    type Encoder = WordEncoder;
    type Decoder = <ProstCodec<RouterMessage, ControllerMessage> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        WordEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<RouterMessage, ControllerMessage>::raw_decoder(BufferSettings::default())
    }
}

impl Encoder for WordEncoder {
    type Item = Word;
    type Error = Status;

    fn encode(&mut self, word: Word, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        word.encode(out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use jobgate_proto::admission::v1::{Runner, User, Withdrawn};
    use jobgate_sdk::{Subject, testing};

    use super::*;

    fn written(word: &Word) -> RouterMessage {
        let mut bytes = Vec::new();
        word.encode(&mut bytes);
        RouterMessage::decode(&*bytes).unwrap()
    }

    #[test]
    fn a_question_is_on_the_wire_what_its_message_is() {
        let whole = testing::request().image("alpine:3.20").service("postgres:16").tag("docker").user("ann").build();
        let subject = whole.subject().clone();
        let user = Some(User { id: Some(0), login: None }.into());
        let runner = Some(Runner { name: "r1".into(), ..Runner::default() }.into());
        for subject in [
            subject.clone(),
            Subject { user, runner, ..subject.clone() },
            Subject { job: Default::default(), project: Default::default(), user: None, runner: None },
        ] {
            let request = AdmissionRequest::new(whole.question().clone(), subject);
            let word = Word::Ask(Question::new(&request, request.time_left()));
            let expected = router_message::Message::Request(AdmitRequest::from(&request));
            assert_eq!(written(&word), RouterMessage { message: Some(expected) });
        }
    }

    #[test]
    fn the_time_left_is_the_one_given() {
        let request = testing::request().build();
        let word = Word::Ask(Question::new(&request, Duration::from_millis(7)));
        let Some(router_message::Message::Request(question)) = written(&word).message else { panic!() };
        assert_eq!(question.time_left, Duration::from_millis(7).try_into().ok());
    }

    #[test]
    fn other_words_are_their_messages() {
        let withdrawn = || router_message::Message::Withdrawn(Withdrawn { id: "q1".into() });
        assert_eq!(written(&Word::Say(withdrawn())), RouterMessage { message: Some(withdrawn()) });
    }
}
