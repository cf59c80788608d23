//! One address for everything: HTTP/1.1 and HTTP/2, plain or TLS.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Limits, Metrics, Tls,
    again::Again,
    connection::{self, Shared},
    server::App,
    throttle::Throttle,
};

/// After an error that concerns the whole process (no more files), so long before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Listener {
    tcp: TcpListener,
    tls: Option<Tls>,
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    metrics: Metrics,
    full: Throttle,
    failing: Throttle,
}

impl Listener {
    pub(super) fn new(tcp: TcpListener, tls: Option<Tls>, limits: Limits, metrics: Metrics) -> Self {
        let places = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
        let shared = Arc::new(Shared {
            builder: connection::builder(&limits),
            limits,
            closing: CancellationToken::new(),
            kill: CancellationToken::new(),
        });
        Self { tcp, tls, shared, places, metrics, full: Throttle::default(), failing: Throttle::default() }
    }

    /// Serves until `closing`, then lets open requests finish within the limit.
    pub(super) async fn serve(self, app: App, closing: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            let (stream, peer, place) = tokio::select! {
                next = self.next() => next,
                () = closing.cancelled() => break,
            };
            let (app, shared, tls) = (app.clone(), self.shared.clone(), self.tls.clone());
            let open = self.metrics.connection();
            connections.spawn(Again::new(async move {
                let _held = (place, open);
                run(stream, peer, tls, app, &shared).await;
            }));
        }
        let Self { tcp, shared, .. } = self;
        drop(tcp);
        shared.closing.cancel();
        connections.close();
        if tokio::time::timeout(shared.limits.drain, connections.wait()).await.is_err() {
            tracing::warn!(
                open = connections.len(),
                "connections are still open at the end of the drain: closing them"
            );
            shared.kill.cancel();
            connections.wait().await;
        }
    }

    async fn next(&self) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
        let place = self.place().await;
        loop {
            match self.tcp.accept().await {
                Ok((stream, peer)) => return (stream, peer, place),
                Err(error) => self.accept_failed(&error).await,
            }
        }
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return place;
        }
        if let Some(before) = self.full.pass() {
            let limit = self.shared.limits.connections;
            tracing::warn!(limit, before, "too many connections: none is accepted until one ends");
        }
        match self.places.clone().acquire_owned().await {
            Ok(place) => place,
            // Nobody closes the semaphore.
            Err(_) => std::future::pending().await,
        }
    }

    /// Some errors are about the connection that was to be accepted, others about the process. Neither ends the server.
    async fn accept_failed(&self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
            return;
        }
        self.metrics.accept_error();
        if let Some(before) = self.failing.pass() {
            tracing::error!(%error, before, "cannot accept connections; trying again");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

async fn run(stream: TcpStream, peer: SocketAddr, tls: Option<Tls>, app: App, shared: &Shared) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let Some(tls) = tls else {
        return connection::serve(stream, peer, app, shared).await;
    };
    let handshake = tokio::time::timeout(shared.limits.tls_handshake, tls.acceptor().accept(stream));
    let result = tokio::select! {
        result = handshake => result,
        () = shared.closing.cancelled() => return,
    };
    match result {
        Ok(Ok(stream)) => connection::serve(stream, peer, app, shared).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_accept_error_is_counted_and_survived() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metrics = Metrics::new();
        let listener = Listener::new(tcp, None, Limits::default(), metrics.clone());
        let before = tokio::time::Instant::now();
        // EMFILE: trying at once would take all of a processor.
        listener.accept_failed(&io::Error::from_raw_os_error(24)).await;
        assert_eq!(before.elapsed(), ACCEPT_PAUSE);
        listener.accept_failed(&io::ErrorKind::ConnectionAborted.into()).await;
        assert_eq!(before.elapsed(), ACCEPT_PAUSE, "the next one is accepted at once");
        let text = metrics.encode(&crate::faces::metrics::Snapshot::empty()).unwrap();
        assert!(text.contains("\njobgate_accept_errors_total 1\n"), "{text}");
    }
}
