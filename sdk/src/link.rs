//! One connection's life, without I/O: registering → ready → draining.

use jobgate_proto::admission::v1::{AdmitRequest, RouterMessage, Welcome, router_message::Message};

/// Where a connection is in its life.
#[derive(Debug, Default)]
pub(crate) struct Link {
    phase: Phase,
    /// The router said that it asks nothing new.
    router_drains: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Hello is sent; nothing but the welcome may come.
    #[default]
    Registering,
    /// Questions come, answers go.
    Ready,
    /// We asked for no more questions. Those on their way are still answered.
    Draining,
}

/// What to do about a message of the router.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    Welcomed(Welcome),
    Ask(Box<AdmitRequest>),
    Withdraw(String),
    /// The router drains: finish what is open, then it closes the stream.
    Finish,
    /// A message of a newer version.
    Ignore,
}

/// What a router may not do; completes "the router at … ".
pub(crate) type Breach = &'static str;

impl Link {
    /// A message came.
    pub(crate) fn receive(&mut self, message: RouterMessage) -> Result<Step, Breach> {
        match (self.phase, message.message) {
            (Phase::Registering, Some(Message::Welcome(welcome))) => {
                self.phase = Phase::Ready;
                Ok(Step::Welcomed(welcome))
            }
            (_, Some(Message::Draining(_))) => {
                self.router_drains = true;
                Ok(Step::Finish)
            }
            (Phase::Registering, _) => Err("did not welcome the controller before anything else"),
            (_, Some(Message::Welcome(_))) => Err("welcomed the controller twice"),
            (_, Some(Message::Request(question))) => Ok(Step::Ask(Box::new(question))),
            (_, Some(Message::Withdrawn(withdrawn))) => Ok(Step::Withdraw(withdrawn.id)),
            (_, None) => Ok(Step::Ignore),
        }
    }

    /// Shutdown is wanted. Whether the router is to be told.
    pub(crate) fn shut_down(&mut self) -> bool {
        std::mem::replace(&mut self.phase, Phase::Draining) == Phase::Ready
    }

    /// Whether we asked for no more questions.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase == Phase::Draining
    }

    /// Whether no more questions can come, so that the stream may be closed as soon as none is open.
    pub(crate) fn is_quiet(&self) -> bool {
        self.router_drains
    }
}

#[cfg(test)]
mod tests {
    use jobgate_proto::admission::v1::{Draining, Withdrawn};

    use super::*;

    fn message(message: Message) -> RouterMessage {
        RouterMessage { message: Some(message) }
    }

    fn ready() -> Link {
        let mut link = Link::default();
        let step = link.receive(message(Message::Welcome(Welcome::default())));
        assert_eq!(step, Ok(Step::Welcomed(Welcome::default())));
        link
    }

    #[test]
    fn nothing_comes_before_the_welcome() {
        for early in [Message::Request(AdmitRequest::default()), Message::Withdrawn(Withdrawn::default())] {
            assert!(Link::default().receive(message(early)).is_err());
        }
        assert!(Link::default().receive(RouterMessage { message: None }).is_err());
    }

    #[test]
    fn a_welcome_comes_once() {
        assert!(ready().receive(message(Message::Welcome(Welcome::default()))).is_err());
    }

    #[test]
    fn a_question_on_its_way_is_answered_while_draining() {
        let mut link = ready();
        assert!(link.shut_down(), "the router is told");
        assert!(!link.shut_down(), "once");
        let question = AdmitRequest { id: "q".into(), ..AdmitRequest::default() };
        let step = link.receive(message(Message::Request(question.clone())));
        assert_eq!(step, Ok(Step::Ask(Box::new(question))));
        assert!(!link.is_quiet());
        assert_eq!(link.receive(message(Message::Draining(Draining {}))), Ok(Step::Finish));
        assert!(link.is_quiet());
    }

    #[test]
    fn a_router_we_never_met_is_not_told() {
        assert!(!Link::default().shut_down());
    }

    #[test]
    fn messages_of_a_newer_router_are_ignored() {
        assert_eq!(ready().receive(RouterMessage { message: None }), Ok(Step::Ignore));
    }
}
