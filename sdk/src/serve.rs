use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::{Semaphore, watch};

use crate::{Attach, Controller, Listen, ListenOn, Observer, Token, desk::Desk};

/// Serves a controller: choose options, then how it is reached.
///
/// ```no_run
/// use jobgate_sdk::{AdmissionRequest, ServeError, Token, Verdict, serve};
///
/// # async fn run() -> Result<(), ServeError> {
/// let controller = |request: AdmissionRequest| async move {
///     match request.job().protected {
///         Some(true) => Verdict::admit(),
///         _ => Verdict::reject("only protected refs run here").rule("protected-only"),
///     }
/// };
/// serve(controller)
///     .named("protected-only")
///     .attach("https://jobgate.acme.example", Token::from_file("protected-only.token"))
///     .await
/// # }
/// ```
pub fn serve(controller: impl Controller) -> Serve {
    Serve {
        controller: Arc::new(controller),
        name: String::new(),
        version: String::new(),
        policy_version: PolicyVersion::from(String::new()),
        max_in_flight: 64,
        drain_limit: Duration::from_secs(30),
        observer: None,
        max_request_bytes: 8 * 1024 * 1024,
    }
}

/// A controller with its options, not reachable yet: see [`serve`].
#[must_use = "a controller is asked only after `.listen(..)` or `.attach(..)`, awaited"]
pub struct Serve {
    pub(crate) controller: Arc<dyn Controller>,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) policy_version: PolicyVersion,
    pub(crate) max_in_flight: usize,
    pub(crate) drain_limit: Duration,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) max_request_bytes: usize,
}

/// The version of the policy a controller decides by: fixed, or followed as it changes.
#[derive(Clone, Debug)]
pub struct PolicyVersion(pub(crate) watch::Receiver<String>);

impl Serve {
    /// The controller's name in the router's configuration. Needed to attach.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The version of this program, for people who look at the router's list of controllers.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// The version of the policy, as a `&str`, a `String`, or a [`watch::Receiver<String>`] that follows it. Recorded with
    /// each verdict that names none itself; when it changes, the router asks again before older decisions serve.
    pub fn policy_version(mut self, version: impl Into<PolicyVersion>) -> Self {
        self.policy_version = version.into();
        self
    }

    /// How many questions are worked on at once, at least 1 (default 64). More are not read until one is answered.
    pub fn max_in_flight(mut self, questions: usize) -> Self {
        self.max_in_flight = questions.clamp(1, 1 << 20);
        self
    }

    /// How long open questions may take after shutdown is asked for (default 30 s).
    pub fn drain_limit(mut self, limit: Duration) -> Self {
        self.drain_limit = limit;
        self
    }

    /// Who is told what happens, for metrics.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// The largest question taken, in bytes (default 8 MiB).
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.max_request_bytes = bytes;
        self
    }

    /// Listens for routers that dial in, on an address (`127.0.0.1:7501`, port 0 for any) or an already bound listener.
    pub fn listen(self, on: impl Into<ListenOn>) -> Listen {
        Listen::new(self, on.into())
    }

    /// Dials a router and attaches to it with the controller's token; stays attached, reconnecting as needed. Needs
    /// [`Serve::named`].
    pub fn attach(self, router: impl Into<String>, token: Token) -> Attach {
        Attach::new(self, router.into(), token)
    }

    pub(crate) fn desk(&self) -> Arc<Desk> {
        Arc::new(Desk {
            controller: Arc::clone(&self.controller),
            observer: self.observer.clone(),
            policy_version: self.policy_version.0.clone(),
            permits: Arc::new(Semaphore::new(self.max_in_flight)),
        })
    }
}

impl From<String> for PolicyVersion {
    fn from(version: String) -> Self {
        Self(watch::channel(version).1)
    }
}

impl From<&str> for PolicyVersion {
    fn from(version: &str) -> Self {
        version.to_owned().into()
    }
}

impl From<watch::Receiver<String>> for PolicyVersion {
    fn from(version: watch::Receiver<String>) -> Self {
        Self(version)
    }
}

/// A future that is over when shutdown is wanted.
pub(crate) type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Never asks for shutdown.
pub(crate) fn never() -> Shutdown {
    Box::pin(std::future::pending())
}

/// Any future as a signal for shutdown; what it yields does not matter.
pub(crate) fn signal<F>(future: F) -> Shutdown
where
    F: Future + Send + 'static,
{
    Box::pin(async move {
        future.await;
    })
}
