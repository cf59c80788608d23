//! The socket: HTTP/1.1, connections that can be cut, and a listener that can go away and come back.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::body::Body;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{dispatch, shared::Shared};

pub(super) struct Server {
    pub(super) address: SocketAddr,
    accepting: Mutex<Option<JoinHandle<()>>>,
    /// Ends the connections that there are.
    connections: Arc<Mutex<CancellationToken>>,
}

/// The connection ends here, without another byte.
#[derive(Debug)]
pub(super) struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut by the test")
    }
}

impl std::error::Error for Cut {}

impl Server {
    pub(super) async fn start(address: SocketAddr, shared: Arc<Shared>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(CancellationToken::new()));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&connections), shared));
        Self { address, accepting: Mutex::new(Some(accepting)), connections }
    }

    pub(super) fn cut(&self) {
        std::mem::take(&mut *self.connections.lock().unwrap()).cancel();
    }

    /// Refuses connections from now on.
    pub(super) async fn close(&self) {
        let accepting = self.accepting.lock().unwrap().take();
        if let Some(accepting) = accepting {
            accepting.abort();
            // The port is free once the task is gone.
            let _ = accepting.await;
        }
        self.cut();
    }

    pub(super) async fn open(&self, shared: Arc<Shared>) {
        if self.accepting.lock().unwrap().is_some() {
            return;
        }
        let listener = TcpListener::bind(self.address).await.expect("the port is still free");
        let accepting = tokio::spawn(accept(listener, Arc::clone(&self.connections), shared));
        *self.accepting.lock().unwrap() = Some(accepting);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.lock().unwrap().take() {
            accepting.abort();
        }
        self.cut();
    }
}

async fn accept(listener: TcpListener, connections: Arc<Mutex<CancellationToken>>, shared: Arc<Shared>) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let end = connections.lock().unwrap().clone();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let _: Option<()> = end.run_until_cancelled(connection(stream, peer, shared)).await;
        });
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    // An error of the service ends the connection at once; an axum router could not say so. A client that goes away drops
    // the call's future, also while it waits.
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        dispatch::serve(Arc::clone(&shared), peer, request.map(Body::new))
    });
    let _: Result<(), hyper::Error> = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
