use std::{fmt, io, path::PathBuf};

use subtle::ConstantTimeEq;
use tonic::metadata::{Ascii, MetadataValue};
use zeroize::Zeroizing;

/// A secret that proves who is calling. Never printed, and wiped from memory when dropped.
///
/// One from a file or the environment is read each time a connection is made, so it can be rotated while the program runs.
#[derive(Clone)]
pub struct Token(Source);

#[derive(Clone)]
enum Source {
    Value(Zeroizing<String>),
    File(PathBuf),
    Env(String),
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Its file cannot be read.
    #[error("cannot read the token file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its environment variable is not set, or is not text.
    #[error("the environment variable {name} holds no token; set it, or use a token file")]
    Env {
        /// The variable.
        name: String,
    },
    /// There is one, and it cannot be sent.
    #[error("the token from {origin} is empty or has characters other than visible ASCII")]
    Unusable {
        /// Where it comes from: a path, a variable, or `the program`.
        origin: String,
    },
}

impl Token {
    /// This very value. Prefer a file: it can be rotated, and does not end up in a process list.
    #[must_use]
    pub fn from_value(value: impl Into<String>) -> Self {
        Self(Source::Value(Zeroizing::new(value.into())))
    }

    /// The content of a file, without blanks and line ends around it.
    #[must_use]
    pub fn from_file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    /// The value of an environment variable.
    #[must_use]
    pub fn from_env(name: impl Into<String>) -> Self {
        Self(Source::Env(name.into()))
    }

    /// Reads it as it is now.
    pub(crate) async fn read(&self) -> Result<Secret, TokenError> {
        let (text, origin) = match &self.0 {
            Source::Value(value) => (value.clone(), "the program".to_owned()),
            Source::File(path) => {
                let text = tokio::fs::read_to_string(path)
                    .await
                    .map_err(|source| TokenError::File { path: path.clone(), source })?;
                (Zeroizing::new(text), path.display().to_string())
            }
            Source::Env(name) => {
                let text = std::env::var(name).map_err(|_| TokenError::Env { name: name.clone() })?;
                (Zeroizing::new(text), format!("the environment variable {name}"))
            }
        };
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Unusable { origin });
        }
        Ok(Secret(Zeroizing::new(format!("Bearer {text}"))))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

/// A token as it was read, in the form of an `authorization` header.
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// The header's value.
    pub(crate) fn header(&self) -> Option<MetadataValue<Ascii>> {
        let mut value = MetadataValue::try_from(self.0.as_str()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Whether a caller presented it; takes the same time wherever the two differ.
    pub(crate) fn matches(&self, header: Option<&http::HeaderValue>) -> bool {
        header.is_some_and(|header| bool::from(header.as_bytes().ct_eq(self.0.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_anew_and_trimmed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = Token::from_file(&path);
        assert!(matches!(token.read().await, Err(TokenError::File { .. })));
        for text in ["first", "second\n", "third\r\n"] {
            std::fs::write(&path, text).unwrap();
            let header = token.read().await.unwrap().header().unwrap();
            assert_eq!(header.to_str().unwrap(), format!("Bearer {}", text.trim()));
        }
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(token.read().await, Err(TokenError::Unusable { .. })));
    }

    #[tokio::test]
    async fn it_is_never_printed() {
        let token = Token::from_value("s3cret\u{7}");
        let error = token.read().await.err().unwrap();
        for text in [format!("{token:?}"), format!("{error}"), format!("{error:?}")] {
            assert!(!text.contains("s3cret"), "{text}");
        }
        let header = Token::from_value("s3cret").read().await.unwrap().header().unwrap();
        assert!(!format!("{header:?}").contains("s3cret"));
    }

    #[tokio::test]
    async fn only_the_whole_token_matches() {
        let secret = Token::from_value("abc").read().await.unwrap();
        let said = |value| secret.matches(Some(&http::HeaderValue::from_static(value)));
        assert!(said("Bearer abc"));
        for wrong in ["Bearer ab", "Bearer abcd", "abc", "Bearer abd", ""] {
            assert!(!said(wrong), "{wrong}");
        }
        assert!(!secret.matches(None));
    }
}
