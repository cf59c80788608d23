use std::time::Duration;

/// What one address may cost: the libraries below have no such limits of their own, or none that fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. When all are taken the router stops accepting until one ends.
    pub connections: usize,
    /// HTTP/2 streams at once on one connection.
    pub streams_per_connection: u32,
    /// Time for a TLS handshake.
    pub tls_handshake: Duration,
    /// Time until the first request of a connection, and for the head of every HTTP/1 request.
    pub header_read: Duration,
    /// Size of a request's head, in bytes; at least 8 KiB. GitLab's tokens in it may be long.
    pub header_bytes: u32,
    /// Size of submitted documents, in bytes.
    pub document_bytes: usize,
    /// Submissions that are read at once; others wait for their turn.
    pub submissions: usize,
    /// Time for a request to be read and answered; of a stream, to be accepted.
    pub request: Duration,
    /// A connection without any request for so long is closed.
    pub idle: Duration,
    /// How often an HTTP/2 peer is pinged, and how long it has to answer.
    pub ping: Duration,
    /// A peer that takes nothing of what is sent to it for so long is cut off.
    pub write_stall: Duration,
    /// Time for open requests to finish on shutdown.
    pub drain: Duration,
    /// A runner's stream must begin with its hello within this time.
    pub hello: Duration,
    /// A runner's stream without a message for so long is ended.
    pub runner_silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            streams_per_connection: 256,
            tls_handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(10),
            header_bytes: 32 * 1024,
            document_bytes: 4 * 1024 * 1024,
            submissions: 256,
            request: Duration::from_secs(30),
            idle: Duration::from_secs(300),
            ping: Duration::from_secs(20),
            write_stall: Duration::from_secs(40),
            drain: Duration::from_secs(30),
            hello: Duration::from_secs(10),
            runner_silence: Duration::from_secs(30),
        }
    }
}
