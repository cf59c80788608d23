use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A token or key. Prints as `[redacted]`, is compared in constant time, and is wiped from memory when dropped.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Shortest token taken from a file, in bytes: shorter ones can be guessed.
    pub const SHORTEST: usize = 16;

    /// Holds a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(text.into())))
    }

    /// The secret itself, for the one place that must send it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `text` is this secret, in a time that depends on neither.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        // Equal lengths for the comparison; digests of tokens leak nothing.
        let digest = |text: &str| Sha256::digest(text.as_bytes());
        digest(&self.0).as_slice().ct_eq(digest(text).as_slice()).into()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.is(other.expose())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
