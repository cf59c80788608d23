//! The floor: a reverse proxy of the same crates that thinks nothing of what passes.

use std::sync::Arc;

use http::{Request, Response, Uri, header, uri::Authority};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::net::TcpListener;

use crate::{Result, child};

struct Proxy {
    client: Client<HttpConnector, Incoming>,
    to: Authority,
}

/// Role `proxy`; reads at most so many bytes at once, where that is said.
pub(crate) async fn serve(to: &str, most: Option<&String>) -> Result<()> {
    let mut server = http1::Builder::new();
    if let Some(most) = most {
        server.max_buf_size(most.parse()?);
    }
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    let proxy = Arc::new(Proxy { client: Client::builder(TokioExecutor::new()).build(http), to: to.parse()? });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    child::ready(listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let proxy = proxy.clone();
        let service = service_fn(move |request| {
            let proxy = proxy.clone();
            async move { proxy.pass(request).await.map_err(std::io::Error::other) }
        });
        let connection = server.serve_connection(TokioIo::new(stream), service);
        // It ends with its client.
        tokio::spawn(async move { drop(connection.await) });
    }
}

impl Proxy {
    async fn pass(&self, mut request: Request<Incoming>) -> Result<Response<Incoming>> {
        let path = request.uri().path_and_query().cloned().ok_or("a request without a path")?;
        *request.uri_mut() = Uri::builder().scheme("http").authority(self.to.clone()).path_and_query(path).build()?;
        request.headers_mut().remove(header::HOST);
        Ok(self.client.request(request).await?)
    }
}
