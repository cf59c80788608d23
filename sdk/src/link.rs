//! One connection's life, without I/O: registering → ready → draining.

use jobgate_proto::admission::v1::router_message::Message;

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

/// What a router may not do; completes "the router at … ".
pub(crate) type Breach = &'static str;

impl Link {
    /// A message came. Whether it may be acted on; one of a newer version, `None`, is ignored.
    pub(crate) fn receive(&mut self, message: Option<&Message>) -> Result<(), Breach> {
        match (self.phase, message) {
            (Phase::Registering, Some(Message::Welcome(_))) => self.phase = Phase::Ready,
            (_, Some(Message::Draining(_))) => self.router_drains = true,
            (Phase::Registering, _) => return Err("did not welcome the controller before anything else"),
            (_, Some(Message::Welcome(_))) => return Err("welcomed the controller twice"),
            (_, Some(Message::Request(_) | Message::Withdrawn(_)) | None) => {}
        }
        Ok(())
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
    use jobgate_proto::admission::v1::{AdmitRequest, Draining, Welcome, Withdrawn};

    use super::*;

    fn ready() -> Link {
        let mut link = Link::default();
        assert_eq!(link.receive(Some(&Message::Welcome(Welcome::default()))), Ok(()));
        link
    }

    #[test]
    fn nothing_comes_before_the_welcome() {
        for early in [Message::Request(AdmitRequest::default()), Message::Withdrawn(Withdrawn::default())] {
            assert!(Link::default().receive(Some(&early)).is_err());
        }
        assert!(Link::default().receive(None).is_err());
    }

    #[test]
    fn a_welcome_comes_once() {
        assert!(ready().receive(Some(&Message::Welcome(Welcome::default()))).is_err());
    }

    #[test]
    fn a_question_on_its_way_is_answered_while_draining() {
        let mut link = ready();
        assert!(link.shut_down(), "the router is told");
        assert!(!link.shut_down(), "once");
        assert_eq!(link.receive(Some(&Message::Request(AdmitRequest::default()))), Ok(()));
        assert!(!link.is_quiet());
        assert_eq!(link.receive(Some(&Message::Draining(Draining {}))), Ok(()));
        assert!(link.is_quiet());
    }

    #[test]
    fn a_router_we_never_met_is_not_told() {
        assert!(!Link::default().shut_down());
    }

    #[test]
    fn messages_of_a_newer_router_are_ignored() {
        assert_eq!(ready().receive(None), Ok(()));
    }
}
