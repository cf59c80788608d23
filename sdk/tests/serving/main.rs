//! A served controller, from outside: over real sockets, by the protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod attach;
mod conformance;
mod listen;
mod tls;

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use jobgate_sdk::{AdmissionRequest, Controller, Ending, MalformedRequest, Observer, ServeError, Verdict, async_trait};
use tokio::sync::{Semaphore, mpsc};

/// A controller that does what the job's name says.
#[derive(Clone)]
struct Obedient {
    /// Each name as its question starts, and `dropped` when one is abandoned.
    seen: mpsc::UnboundedSender<String>,
    /// `gate` waits for one of these.
    gate: Arc<Semaphore>,
}

impl Obedient {
    fn new() -> (Self, mpsc::UnboundedReceiver<String>) {
        let (seen, events) = mpsc::unbounded_channel();
        (Self { seen, gate: Arc::new(Semaphore::new(0)) }, events)
    }
}

#[async_trait]
impl Controller for Obedient {
    async fn admit(&self, request: &AdmissionRequest) -> Verdict {
        let name = request.job().name.clone().unwrap_or_default();
        let _ = self.seen.send(name.clone());
        let _dropped = OnDrop(self.seen.clone());
        match name.as_str() {
            "hang" => pending().await,
            "panic" => panic!("as it was told"),
            "gate" => {
                self.gate.acquire().await.unwrap().forget();
                Verdict::admit()
            }
            "chatty" => (0..1000).fold(Verdict::admit(), |verdict, _| verdict.warn("x".repeat(1000))),
            "reject" => Verdict::reject("as it was told").rule("told"),
            _ => Verdict::admit(),
        }
    }
}

/// Says `dropped`, at the end of every question.
struct OnDrop(mpsc::UnboundedSender<String>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.send("dropped".into());
    }
}

/// Writes down what it is told.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>, Option<mpsc::UnboundedSender<String>>);

impl Diary {
    fn new() -> (Self, mpsc::UnboundedReceiver<String>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(Arc::default(), Some(sender)), receiver)
    }

    fn write(&self, line: String) {
        self.0.lock().unwrap().push(line.clone());
        let _ = self.1.as_ref().map(|sender| sender.send(line));
    }
}

impl Observer for Diary {
    fn started(&self, _: &AdmissionRequest) {
        self.write("started".into());
    }

    fn finished(&self, _: &AdmissionRequest, ending: Ending<'_>, _: Duration) {
        self.write(match ending {
            Ending::Answered(verdict) => match verdict.failure() {
                Some(failure) => format!("failed: {}", failure.cause().as_str()),
                None => "answered".into(),
            },
            _ => "withdrawn".into(),
        });
    }

    fn malformed(&self, error: &MalformedRequest) {
        self.write(format!("malformed: {error}"));
    }

    fn connected(&self, _: &str) {
        self.write("connected".into());
    }

    fn disconnected(&self, _: &str, fault: Option<&ServeError>) {
        self.write(match fault {
            None => "disconnected".into(),
            Some(ServeError::Refused { code, .. }) => format!("refused: {code}"),
            Some(ServeError::Unreachable { .. }) => "unreachable".into(),
            Some(ServeError::Lost { .. }) => "lost".into(),
            Some(other) => format!("other: {other}"),
        });
    }
}

/// Waits for a line of the diary or an event of the controller.
async fn until(events: &mut mpsc::UnboundedReceiver<String>, wanted: &str) {
    let found = async {
        while let Some(event) = events.recv().await {
            if event == wanted {
                return;
            }
        }
        panic!("`{wanted}` never came");
    };
    tokio::time::timeout(Duration::from_secs(10), found).await.unwrap_or_else(|_| panic!("`{wanted}` did not come"));
}
