//! Floors that write: the grouped commit, and a queue that is polled.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Seek, Write},
    path::Path,
    sync::mpsc,
};

use bytes::Bytes;
use tokio::{net::TcpListener, sync::oneshot};
use tokio_stream::{StreamExt, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, transport::Server};

use crate::{
    Result, child,
    echo::{
        Payload, nodelay,
        wire::{
            PollRequest, PollResponse,
            queue_server::{Queue, QueueServer},
        },
    },
};

/// Most that goes into one commit, as in the router.
const STEP: usize = 1024;
/// Bytes that say who got a job.
const TAKEN_BYTES: usize = 64;

/// A file that is filled ahead of need: a commit is one write and one sync of data.
struct Log {
    file: File,
    size: u64,
    at: u64,
    batch: Vec<u8>,
}

impl Log {
    fn create(folder: &Path, size: u64) -> Result<Self> {
        let mut file = File::options().create(true).truncate(true).read(true).write(true).open(folder.join("log"))?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..size >> 20 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        file.rewind()?;
        Ok(Self { file, size, at: 0, batch: Vec::new() })
    }

    fn commit(&mut self) -> Result<()> {
        if self.at + self.batch.len() as u64 > self.size {
            self.file.rewind()?;
            self.at = 0;
        }
        self.file.write_all(&self.batch)?;
        self.file.sync_data()?;
        self.at += self.batch.len() as u64;
        self.batch.clear();
        Ok(())
    }
}

/// Commits what comes, everything that waits at once.
#[derive(Clone)]
pub(crate) struct Committer(mpsc::Sender<(Bytes, oneshot::Sender<()>)>);

impl Committer {
    /// A thread that writes a log in this folder.
    pub(crate) fn start(folder: &Path, size: u64) -> Result<Self> {
        let mut log = Log::create(folder, size)?;
        let (send, receive) = mpsc::channel::<(Bytes, oneshot::Sender<()>)>();
        std::thread::spawn(move || {
            let mut replies = Vec::new();
            while let Ok(first) = receive.recv() {
                for (bytes, reply) in std::iter::once(first).chain(receive.try_iter().take(STEP - 1)) {
                    log.batch.extend_from_slice(&bytes);
                    replies.push(reply);
                }
                // Whoever waits for it sees that it is gone.
                if log.commit().is_err() {
                    return;
                }
                for reply in replies.drain(..) {
                    let _ = reply.send(());
                }
            }
        });
        Ok(Self(send))
    }

    pub(crate) async fn commit(&self, bytes: Bytes) -> Result<()> {
        let (reply, done) = oneshot::channel();
        self.0.send((bytes, reply))?;
        Ok(done.await?)
    }
}

enum Ask {
    Submit(Bytes, oneshot::Sender<()>),
    Poll(PollRequest, oneshot::Sender<Vec<Bytes>>),
}

/// A queue as pollers know it: a job is written when it is submitted, and again when a poll takes it.
struct Polled(mpsc::Sender<Ask>);

/// Role `queue`.
pub(crate) async fn serve(folder: &str, mebibytes: &str) -> Result<()> {
    let log = Log::create(Path::new(folder), mebibytes.parse::<u64>()? << 20)?;
    let (asks, inbox) = mpsc::channel();
    std::thread::spawn(move || drop(own(log, &inbox)));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    child::ready(listener.local_addr()?);
    let server = Server::builder().add_service(QueueServer::new(Polled(asks)));
    Ok(server.serve_with_incoming(TcpListenerStream::new(listener).map(nodelay)).await?)
}

fn own(mut log: Log, inbox: &mpsc::Receiver<Ask>) -> Result<()> {
    let mut waiting = VecDeque::new();
    let mut polls = VecDeque::<(PollRequest, oneshot::Sender<Vec<Bytes>>)>::new();
    let mut submitted = Vec::new();
    while let Ok(first) = inbox.recv() {
        for ask in std::iter::once(first).chain(inbox.try_iter().take(STEP - 1)) {
            match ask {
                Ask::Submit(document, reply) => {
                    log.batch.extend_from_slice(&document);
                    waiting.push_back(document);
                    submitted.push(reply);
                }
                Ask::Poll(poll, reply) => polls.push_back((poll, reply)),
            }
        }
        if !submitted.is_empty() {
            log.commit()?;
        }
        for reply in submitted.drain(..) {
            let _ = reply.send(());
        }
        let mut taken = Vec::new();
        polls.retain(|(_, reply)| !reply.is_closed());
        while let Some((poll, _)) = polls.front()
            && (!poll.wait || !waiting.is_empty())
        {
            let most = waiting.len().min(poll.most as usize);
            let documents: Vec<_> = waiting.drain(..most).collect();
            log.batch.resize(log.batch.len() + documents.len() * TAKEN_BYTES, 1);
            if let Some((_, reply)) = polls.pop_front() {
                taken.push((documents, reply));
            }
        }
        if !log.batch.is_empty() {
            log.commit()?;
        }
        for (documents, reply) in taken {
            let _ = reply.send(documents);
        }
    }
    Ok(())
}

#[tonic::async_trait]
impl Queue for Polled {
    async fn submit(&self, request: Request<Payload>) -> std::result::Result<Response<Payload>, Status> {
        let Payload { number, body } = request.into_inner();
        let (reply, done) = oneshot::channel();
        self.0.send(Ask::Submit(body, reply)).map_err(|_| gone())?;
        done.await.map_err(|_| gone())?;
        Ok(Response::new(Payload { number, body: Bytes::new() }))
    }

    async fn poll(&self, request: Request<PollRequest>) -> std::result::Result<Response<PollResponse>, Status> {
        let (reply, taken) = oneshot::channel();
        self.0.send(Ask::Poll(request.into_inner(), reply)).map_err(|_| gone())?;
        let documents = taken.await.map_err(|_| gone())?;
        Ok(Response::new(PollResponse { documents }))
    }
}

fn gone() -> Status {
    Status::unavailable("the log cannot be written")
}
