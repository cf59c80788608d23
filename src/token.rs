use std::{fmt, fs, path::Path, sync::Arc};

use zeroize::Zeroizing;

/// A bearer token. Never printed, and wiped from memory when the last copy is dropped.
#[derive(Clone)]
pub struct Token(Arc<Zeroizing<String>>);

/// Why there is no usable token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Its file cannot be read.
    #[error("cannot read the token file {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is one, and it cannot be sent.
    #[error("the token in {origin} is empty or has characters other than visible ASCII")]
    Unusable {
        /// Where it comes from.
        origin: String,
    },
}

impl Token {
    /// This very value, without blanks and line ends around it.
    ///
    /// # Errors
    ///
    /// When it is empty or could not be sent in a header.
    pub fn new(value: &str) -> Result<Self, TokenError> {
        Self::check(value, "the program")
    }

    /// The content of a file, without blanks and line ends around it.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or holds no usable token.
    pub fn from_file(path: &Path) -> Result<Self, TokenError> {
        let path_name = path.display().to_string();
        match fs::read_to_string(path) {
            Ok(text) => Self::check(&Zeroizing::new(text), &path_name),
            Err(source) => Err(TokenError::File { path: path_name, source }),
        }
    }

    /// The value of an `authorization` header.
    #[must_use]
    pub fn bearer(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("Bearer {}", self.0.as_str()))
    }

    fn check(value: &str, origin: &str) -> Result<Self, TokenError> {
        let value = value.trim();
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Unusable { origin: origin.to_owned() });
        }
        Ok(Self(Arc::new(Zeroizing::new(value.to_owned()))))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_trimmed_and_never_printed() {
        let token = Token::new(" s3cret\r\n").unwrap();
        assert_eq!(token.bearer().as_str(), "Bearer s3cret");
        assert!(!format!("{token:?}").contains("s3cret"));
        let error = Token::new("s3cret\u{7}").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"));
        assert!(Token::new("\n").is_err());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Token::from_file(Path::new("/nowhere/ci.token")).unwrap_err();
        assert!(error.to_string().starts_with("cannot read the token file /nowhere/ci.token: "), "{error}");
    }
}
