use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Uri;
use tonic::transport::Endpoint;

use crate::{
    Backoff, ClientTls, Serve, ServeError, Token,
    desk::Desk,
    error::chain,
    serve::{Shutdown, never, signal},
    tunnel::{Closed, Tunnel},
};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// With the same time for the answer, a router is taken for dead after two missed pings.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A controller that dials a router. Await it to serve; it ends by shutdown, or by a fault that trying again cannot heal.
#[must_use = "nothing is dialled until this is awaited"]
pub struct Attach {
    serve: Serve,
    router: String,
    token: Token,
    tls: ClientTls,
    backoff: Backoff,
    insecure: bool,
    shutdown: Shutdown,
}

impl Attach {
    pub(crate) fn new(serve: Serve, router: String, token: Token) -> Self {
        let (tls, backoff) = (ClientTls::new(), Backoff::default());
        Self { serve, router, token, tls, backoff, insecure: false, shutdown: never() }
    }

    /// Whom to trust and which certificate to show, for an `https://` router.
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = tls;
        self
    }

    /// How long to wait between attempts to connect.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Allows an `http://` router beyond this machine: anybody between can read the token and forge verdicts.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Shuts down when this future is over: asks for no new questions, answers the open ones within the drain limit.
    pub fn with_shutdown(mut self, when: impl Future + Send + 'static) -> Self {
        self.shutdown = signal(when);
        self
    }

    async fn run(mut self) -> Result<(), ServeError> {
        let endpoint = self.endpoint()?;
        // Found now, a faulty file ends the program; later it may be half-way through its rotation.
        self.token.read().await?;
        let desk = self.serve.desk();
        let mut attempt = 0;
        loop {
            let started = Instant::now();
            let closed = self.once(&endpoint, &desk).await;
            if let Some(observer) = &self.serve.observer {
                observer.disconnected(&self.router, closed.as_ref().err());
            }
            let wait = match closed {
                Ok(Closed::ShutDown) => return Ok(()),
                Ok(Closed::RouterDrained) => {
                    tracing::info!(router = self.router, "the router drained; attaching again");
                    attempt = 0;
                    self.backoff.wait(0)
                }
                Err(error @ ServeError::NotDrained { .. }) => return Err(error),
                Err(error) => {
                    attempt = if started.elapsed() > self.backoff.longest() { 0 } else { attempt + 1 };
                    let wait = match error {
                        ServeError::Unreachable { .. } | ServeError::Lost { .. } => self.backoff.wait(attempt),
                        _ => self.backoff.longest_wait(),
                    };
                    tracing::warn!(error = chain(&error), retry_in = ?wait, "not attached");
                    wait
                }
            };
            tokio::select! {
                () = &mut self.shutdown => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Attaches once and serves until that connection is over.
    async fn once(&mut self, endpoint: &Endpoint, desk: &Arc<Desk>) -> Result<Closed, ServeError> {
        let Self { serve, router, token, tls, shutdown, .. } = self;
        let opening = Tunnel::open(endpoint, tls, token, serve, router);
        let mut tunnel = tokio::select! {
            () = &mut *shutdown => return Ok(Closed::ShutDown),
            opened = opening => opened?,
        };
        let welcome = tokio::select! {
            () = &mut *shutdown => return Ok(Closed::ShutDown),
            welcome = tunnel.welcome(CONNECT_LIMIT) => welcome?,
        };
        tracing::info!(
            router = *router,
            router_version = welcome.router_version,
            scope = welcome.scope,
            dry_run = welcome.dry_run,
            "attached"
        );
        if let Some(observer) = &serve.observer {
            observer.connected(router);
        }
        tunnel.serve(desk, serve.drain_limit, shutdown).await
    }

    fn endpoint(&self) -> Result<Endpoint, ServeError> {
        if self.serve.name.is_empty() {
            let text = "attaching needs the controller's name in the router's configuration: add `.named(\"…\")`";
            return Err(ServeError::Option(text.into()));
        }
        let router = &self.router;
        let bad = |why: &str| ServeError::Option(format!("`{router}` is not the URL of a router: {why}"));
        let uri: Uri = router.parse().map_err(|_| bad("write it as `https://jobgate.example`"))?;
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(bad("write it as `https://jobgate.example`"));
        };
        match scheme {
            "https" => {
                self.tls.config()?;
            }
            "http" if self.insecure || is_loopback(host) => {}
            "http" => {
                return Err(bad("`http://` would show the token to the network; use `https://`, or say `.insecure()`"));
            }
            _ => return Err(bad("only `https://` and `http://` are known")),
        }
        Ok(Endpoint::from(uri)
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true))
    }
}

impl IntoFuture for Attach {
    type Output = Result<(), ServeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AdmissionRequest, Verdict, serve};

    fn attach(name: &str, router: &str) -> Attach {
        let controller = |_: AdmissionRequest| async { Verdict::admit() };
        serve(controller).named(name).attach(router, Token::from_value("t"))
    }

    #[test]
    fn faulty_options_are_told_before_anything_is_dialled() {
        for (name, router) in
            [("", "http://127.0.0.1:1"), ("c", "jobgate"), ("c", "ftp://x"), ("c", "http://10.0.0.1"), ("c", "")]
        {
            let error = attach(name, router).endpoint().err().unwrap();
            assert!(matches!(error, ServeError::Option(_)) && !error.is_retryable(), "{error}");
        }
        for router in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "https://10.0.0.1"] {
            assert!(attach("c", router).endpoint().is_ok(), "{router}");
        }
        assert!(attach("c", "http://10.0.0.1").insecure().endpoint().is_ok());
    }
}
