//! What must not get out of a document, and how it is kept in.

use std::borrow::Cow;

use aho_corasick::AhoCorasick;

use crate::document::Content;

/// What stands in the place of a secret.
pub(crate) const REDACTED: &str = "[redacted]";
/// Shorter texts are not searched for: they are no tokens, and would be found everywhere. GitLab masks from this length on.
const SECRET_MIN: usize = 8;
/// Up to so many texts are searched one by one, which needs no preparation.
const FEW: usize = 16;

/// The secrets of one document.
pub(crate) struct Secrets<'c> {
    /// Tokens that GitLab made. Nobody chose them, so replacing them wherever they stand cannot hide anything from a policy.
    credentials: Finder<'c>,
    /// Values of masked and file variables.
    masked: Finder<'c>,
    /// Values of all other variables that are not public.
    private: Finder<'c>,
}

impl<'c> Secrets<'c> {
    pub(crate) fn of(content: &'c Content) -> Self {
        let values = |which: fn(bool, bool) -> bool| {
            let variables = content.variables.iter().flatten();
            let chosen = variables.filter(move |variable| which(variable.masked || variable.file, variable.public));
            chosen.filter_map(|variable| variable.value.as_deref())
        };
        Self {
            credentials: Finder::new(content.credentials.iter().map(String::as_str)),
            masked: Finder::new(values(|masked, _| masked)),
            private: Finder::new(values(|masked, public| !masked && !public)),
        }
    }

    /// The text without credentials of the job, JWTs and userinfo of URLs.
    pub(crate) fn clean<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let text = self.without_credentials(text);
        let Some(mut found) = marked(&text, 0) else { return text };
        let (mut out, mut done) = (String::with_capacity(text.len()), 0);
        loop {
            out.push_str(&text[done..found.0]);
            out.push_str(REDACTED);
            done = found.1;
            match marked(&text, done) {
                Some(next) => found = next,
                None => break,
            }
        }
        out.push_str(&text[done..]);
        out.into()
    }

    /// The text without credentials of the job, otherwise as written.
    pub(crate) fn without_credentials<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.credentials.replace(text)
    }

    /// Whether a value can be told to be a secret by itself: a credential, a JWT or userinfo is in it.
    pub(crate) fn is_marked_in(&self, value: &str) -> bool {
        self.credentials.is_in(value) || marked(value, 0).is_some()
    }

    /// The same, or the value of a masked or file variable is in it.
    pub(crate) fn is_in(&self, value: &str) -> bool {
        self.is_marked_in(value) || self.masked.is_in(value)
    }

    /// The same, or the value of any variable that is not public is in it.
    pub(crate) fn is_private_in(&self, value: &str) -> bool {
        self.is_in(value) || self.private.is_in(value)
    }
}

/// Finds any of some texts in another.
enum Finder<'c> {
    Few(Vec<&'c str>),
    Many(AhoCorasick),
    /// More than can be searched for: everything is taken for a secret.
    TooMany,
}

impl<'c> Finder<'c> {
    fn new(texts: impl Iterator<Item = &'c str>) -> Self {
        let mut texts: Vec<_> = texts.map(str::trim).filter(|text| text.len() >= SECRET_MIN).collect();
        texts.sort_unstable();
        texts.dedup();
        match texts.len() <= FEW {
            true => Self::Few(texts),
            false => AhoCorasick::new(texts).map_or(Self::TooMany, Self::Many),
        }
    }

    fn is_in(&self, value: &str) -> bool {
        match self {
            Self::Few(texts) => texts.iter().any(|text| value.contains(text)),
            Self::Many(texts) => texts.is_match(value),
            Self::TooMany => true,
        }
    }

    fn replace<'t>(&self, value: &'t str) -> Cow<'t, str> {
        if !self.is_in(value) {
            return value.into();
        }
        match self {
            // Longest first: one may be the beginning of another.
            Self::Few(texts) => {
                texts.iter().rev().fold(value.to_owned(), |text, secret| text.replace(secret, REDACTED)).into()
            }
            Self::Many(texts) => {
                let mut out = String::with_capacity(value.len());
                texts.replace_all_with(value, &mut out, |_, _, out| {
                    out.push_str(REDACTED);
                    true
                });
                out.into()
            }
            Self::TooMany => REDACTED.into(),
        }
    }
}

/// Where the next JWT or userinfo from `from` on stands.
fn marked(text: &str, from: usize) -> Option<(usize, usize)> {
    match (jwt(text, from), userinfo(text, from)) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// A JSON Web Token: three parts in base64url, the first of which begins as every JSON object does.
fn jwt(text: &str, mut from: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let end = |from: usize| from + bytes[from..].iter().take_while(|byte| is_base64url(**byte)).count();
    while let Some(found) = text[from..].find("eyJ") {
        let start = from + found;
        let header = end(start);
        // Another beginning within the same run of letters would fare no better: go on after it.
        from = header;
        if bytes.get(header) == Some(&b'.') {
            let claims = end(header + 1);
            if claims > header + 1 && bytes.get(claims) == Some(&b'.') {
                return Some((start, end(claims + 1)));
            }
        }
    }
    None
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=')
}

/// The userinfo of a URL, unless it is already replaced.
fn userinfo(text: &str, mut from: usize) -> Option<(usize, usize)> {
    while let Some(found) = text[from..].find("://") {
        let start = from + found + 3;
        let authority =
            text[start..].split(|c: char| c.is_whitespace() || "/?#\"'<>\\".contains(c)).next().unwrap_or_default();
        from = start + authority.len();
        if let Some(end) = authority.rfind('@').map(|end| start + end)
            && &text[start..end] != REDACTED
        {
            return Some((start, end));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_told_by_their_form() {
        let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.c2ln";
        assert_eq!(marked(token, 0), Some((0, token.len())));
        assert!(marked(&format!("x={token};"), 0).is_some());
        assert!(marked("eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.", 0).is_some(), "an unsigned one");
        for plain in ["eyJ", "eyJ.", "eyJx.y", "eyeJ.a.b", "some.dotted.name"] {
            assert_eq!(marked(plain, 0), None, "{plain}");
        }
    }

    #[test]
    fn userinfo_is_told_from_the_rest_of_a_url() {
        for (url, clean) in [
            ("https://u:p@host/x", "https://[redacted]@host/x"),
            ("see http://u@h and ftp://a:b@c:1/@d", "see http://[redacted]@h and ftp://[redacted]@c:1/@d"),
            ("https://a@b@host", "https://[redacted]@host"),
            ("https://host/a@b", "https://host/a@b"),
            ("a@b.example", "a@b.example"),
        ] {
            let none =
                Secrets { credentials: Finder::Few(vec![]), masked: Finder::Few(vec![]), private: Finder::Few(vec![]) };
            assert_eq!(none.clean(url), clean);
        }
    }
}
