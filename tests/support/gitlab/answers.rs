//! What a test makes the fake do instead of answering well.

use std::sync::Arc;

use tokio::sync::watch;

use super::patiently;

/// What one call meets.
#[derive(Clone)]
pub enum Answer {
    /// What it would be without a script.
    Normal,
    /// This instead, with nothing done.
    Status(u16),
    /// The same, with headers such as `Retry-After`.
    StatusWith(u16, Vec<(&'static str, String)>),
    /// This at once, with the rest of the body unread, as a proxy does that has a limit. Of uploads only; the client may see
    /// the connection end instead.
    Early(u16),
    /// A good status and content type, and a body that is no JSON; with nothing done.
    Garbage,
    /// The connection ends; nothing is done.
    BreakBefore,
    /// All is done (a job is assigned), and the connection ends without an answer.
    BreakOff,
    /// All is done, and the connection ends in the middle of the answer's body.
    BreakHalfway,
    /// All is done, and this is answered, as by a proxy that lost the answer.
    Lost(u16),
    /// The answer, with another content type (facts 7.12).
    ContentType(&'static str),
    /// Never answered.
    Hang,
    /// Waits for the test, then does as usual.
    Delay(Gate),
    /// All is done, and the answer waits for the test: what happens in mid-air happens now.
    DelayDelivery(Gate),
}

/// An outage of all endpoints.
#[derive(Clone, Copy, Debug)]
pub enum Outage {
    Over,
    /// Everything is answered with this.
    Status(u16),
    /// Nobody listens. The same port is taken again afterwards.
    Refuse,
}

/// Where calls stand until a test lets them on.
#[derive(Clone)]
pub struct Gate(Arc<watch::Sender<Door>>);

#[derive(Default)]
struct Door {
    open: bool,
    came: usize,
}

impl Gate {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Door::default())))
    }

    /// Lets everyone on, also who comes later.
    pub fn open(&self) {
        self.0.send_modify(|door| door.open = true);
    }

    /// Waits until so many have come to it.
    pub async fn reached(&self, calls: usize) {
        let mut door = self.0.subscribe();
        let _door = patiently("calls at a gate", door.wait_for(|door| door.came >= calls)).await.unwrap();
    }

    /// Stands at it, as a controller of a test does.
    pub async fn come(&self) {
        self.pass().await;
    }

    pub(super) async fn pass(&self) {
        self.0.send_modify(|door| door.came += 1);
        let mut door = self.0.subscribe();
        let _door = door.wait_for(|door| door.open).await.unwrap();
    }
}
