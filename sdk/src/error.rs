use std::{error::Error, io, time::Duration};

use crate::{TlsError, TokenError};

/// Why a controller is not, or no longer, served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address to listen on is in use, not ours, or no address.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address as given.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// An option is missing or makes no sense; says which and what to write instead.
    #[error("{0}")]
    Option(String),
    /// There is no usable token.
    #[error("no token to attach or to listen with")]
    Token(#[from] TokenError),
    /// The files of TLS are faulty.
    #[error("faulty TLS files")]
    Tls(#[from] TlsError),
    /// The router cannot be reached.
    #[error("cannot reach the router at {router}")]
    Unreachable {
        /// Its URL.
        router: String,
        /// What the transport says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The router does not let this controller attach. Retried slowly, since a person has to act.
    #[error("the router at {router} refuses this controller ({code}): {message}. {advice}")]
    Refused {
        /// Its URL.
        router: String,
        /// The gRPC status code, as `UNAUTHENTICATED`.
        code: &'static str,
        /// What the router says.
        message: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// The connection broke.
    #[error("the connection to the router at {router} broke: {reason}")]
    Lost {
        /// Its URL.
        router: String,
        /// What the transport says.
        reason: String,
    },
    /// The router does not speak as agreed.
    #[error("the router at {router} {breach}")]
    Protocol {
        /// Its URL.
        router: String,
        /// What it did.
        breach: &'static str,
    },
    /// Shutdown took longer than allowed; questions were open still and got no answer.
    #[error("{open} questions were still open after the drain limit of {limit:?}")]
    NotDrained {
        /// How many.
        open: usize,
        /// The limit.
        limit: Duration,
    },
}

impl ServeError {
    /// Whether trying again can help without anybody changing this program's options. While attached, such faults are
    /// retried by themselves and only told to the [`Observer`](crate::Observer) and the log.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Refused { .. } | Self::Lost { .. } | Self::Protocol { .. } => true,
            Self::Bind { .. } | Self::Option(_) | Self::Token(_) | Self::Tls(_) | Self::NotDrained { .. } => false,
        }
    }
}

/// An error with its causes, in one line for a log.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = next.source();
    }
    line
}
