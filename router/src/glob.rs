use regex::{Regex, RegexBuilder};

/// A glob over project paths: `*` and `?` stop at `/`, `**` does not. Compared without ASCII case, as GitLab compares paths.
#[derive(Clone, Debug)]
pub struct ProjectGlob(Regex);

impl PartialEq for ProjectGlob {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for ProjectGlob {}

/// Why a text is no glob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a glob over project paths: letters, digits, `_`, `-`, `.`, `/`, `*`, `?`, at most 512 of them")]
pub struct BadGlob(String);

impl ProjectGlob {
    /// Compiles a glob.
    ///
    /// # Errors
    ///
    /// [`BadGlob`] for characters that no path has.
    pub fn parse(glob: &str) -> Result<Self, BadGlob> {
        let bad = || BadGlob(glob.chars().take(64).collect());
        let fine = |c: char| c.is_ascii_alphanumeric() || "_-./*?".contains(c);
        if glob.is_empty() || glob.len() > 512 || !glob.chars().all(fine) {
            return Err(bad());
        }
        let mut pattern = String::from("^");
        let mut rest = glob;
        while let Some(c) = rest.chars().next() {
            let (part, length) = match c {
                '*' if rest.starts_with("**") => (".*".to_owned(), 2),
                '*' => ("[^/]*".to_owned(), 1),
                '?' => ("[^/]".to_owned(), 1),
                c => (regex::escape(c.encode_utf8(&mut [0; 4])), 1),
            };
            pattern.push_str(&part);
            rest = &rest[length..];
        }
        pattern.push('$');
        RegexBuilder::new(&pattern).case_insensitive(true).build().map(Self).map_err(|_| bad())
    }

    /// Whether a path matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.0.is_match(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stop_at_slashes_and_double_stars_do_not() {
        let matches = |glob: &str, path: &str| ProjectGlob::parse(glob).unwrap().matches(path);
        assert!(matches("acme/*", "ACME/api"));
        assert!(!matches("acme/*", "acme/payments/api"));
        assert!(matches("acme/**", "acme/payments/api"));
        assert!(!matches("acme/**", "acme-evil/x"));
        assert!(!matches("acme/a.i", "acme/api"));
        assert!(matches("acme/ap?", "acme/api"));
        assert!(!matches("acme/ap?i", "acme/ap/i"));
        for bad in ["", "acme/[ab]", "acme\\x", "é"] {
            assert!(ProjectGlob::parse(bad).is_err(), "{bad}");
        }
    }
}
