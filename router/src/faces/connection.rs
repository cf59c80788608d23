//! What happens on one accepted connection.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;

use super::{Limits, server::App};

/// Who is at the other end; in the extensions of every request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

pub(super) fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        // hyper asks for at least 8 KiB.
        .max_buf_size(limits.header_bytes.max(8192) as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.ping)
        .keep_alive_timeout(limits.ping)
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_bytes);
    builder
}

/// Serves one connection to its end: closed by the peer, silent for too long, or told to drain and drained.
pub(super) async fn serve<S>(stream: S, peer: SocketAddr, app: App, context: &Shared)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::new());
    let service = {
        let activity = activity.clone();
        hyper::service::service_fn(move |request: Request<Incoming>| {
            let guard = activity.begin();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            // Boxed: a connection without a request has no room for its answer.
            let answer = Box::pin(app.clone().answer(request));
            async move { Ok::<_, std::convert::Infallible>(guarded(answer.await, guard)) }
        })
    };
    let io = TokioIo::new(NoStall::new(stream, context.limits.write_stall));
    let mut connection = pin!(context.builder.serve_connection(io, service));
    // Looked at when one of them has something to say, and not whenever a byte comes.
    let mut watches: FuturesUnordered<_> = [
        Watch::boxed(async {
            tokio::select! {
                () = activity.quiet_for(context.limits.idle) => {}
                () = context.closing.cancelled() => {}
            }
            Watch::Leave
        }),
        Watch::boxed(async {
            tokio::select! {
                // Not a first request, or no leave taken when asked to go.
                () = activity.silent(&context.limits) => tracing::debug!(%peer, "silent connection closed"),
                () = context.kill.cancelled() => {}
            }
            Watch::End
        }),
    ]
    .into_iter()
    .collect();
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%peer, %error, "connection ended");
                }
                return;
            }
            Some(watch) = watches.next() => match watch {
                Watch::Leave => connection.as_mut().graceful_shutdown(),
                Watch::End => return,
            },
        }
    }
}

/// What else may end a connection than its peer.
enum Watch {
    /// No new request is taken.
    Leave,
    End,
}

impl Watch {
    fn boxed<'a>(watch: impl Future<Output = Self> + Send + 'a) -> Pin<Box<dyn Future<Output = Self> + Send + 'a>> {
        Box::pin(watch)
    }
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) builder: Builder<TokioExecutor>,
    /// No new requests; open ones finish.
    pub(super) closing: CancellationToken,
    /// The end.
    pub(super) kill: CancellationToken,
}

/// Open requests of a connection, and when the last one ended.
struct Activity {
    born: Instant,
    open: AtomicUsize,
    seen: AtomicU64,
    last_ms: AtomicU64,
}

struct OpenRequest(Arc<Activity>);

impl Activity {
    fn new() -> Self {
        Self { born: Instant::now(), open: AtomicUsize::new(0), seen: AtomicU64::new(0), last_ms: AtomicU64::new(0) }
    }

    fn begin(self: &Arc<Self>) -> OpenRequest {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.seen.fetch_add(1, Ordering::Relaxed);
        OpenRequest(self.clone())
    }

    /// Ends when there has been no open request for so long.
    async fn quiet_for(&self, limit: Duration) {
        loop {
            let quiet_since = if self.open.load(Ordering::Relaxed) > 0 {
                Instant::now()
            } else {
                self.born + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
            };
            let until = quiet_since + limit;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    /// Ends when no first request came in time, or when the connection is still there some time after it was idle.
    async fn silent(&self, limits: &Limits) {
        tokio::time::sleep(limits.header_read).await;
        if self.seen.load(Ordering::Relaxed) > 0 {
            self.quiet_for(limits.idle + limits.header_read).await;
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let elapsed = u64::try_from(self.0.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_ms.store(elapsed, Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn guarded(response: Response<Body>, guard: OpenRequest) -> Response<GuardedBody> {
    response.map(|inner| GuardedBody { inner, _guard: guard })
}

/// A body that counts as an open request until it is sent or dropped.
struct GuardedBody {
    inner: Body,
    _guard: OpenRequest,
}

impl hyper::body::Body for GuardedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Ends a connection whose peer takes nothing of what is sent to it: hyper would wait for ever.
struct NoStall<S> {
    inner: S,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> NoStall<S> {
    fn new(inner: S, limit: Duration) -> Self {
        Self { inner, limit, stalled: None }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for NoStall<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NoStall<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(cx, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, progress)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch(cx, progress)
    }
}
