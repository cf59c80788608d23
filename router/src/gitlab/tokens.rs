//! Runner tokens, as they are known here: never in clear.

use std::fmt;

use sha2::{Digest, Sha256};

/// A runner token as a salted digest: tells tokens apart, and nothing more.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey([u8; 32]);

/// Makes keys of tokens.
#[derive(Clone, Copy)]
pub(crate) struct Salt([u8; 16]);

impl Salt {
    pub(crate) fn new(salt: [u8; 16]) -> Self {
        Self(salt)
    }

    pub(crate) fn key(&self, token: &str) -> TokenKey {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(token.as_bytes());
        TokenKey(hash.finalize().into())
    }
}

impl TokenKey {
    /// What people see of it.
    pub(crate) fn short(&self) -> String {
        self.0.iter().take(4).fold(String::with_capacity(8), |mut hex, byte| {
            use fmt::Write;
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
