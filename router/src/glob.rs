use regex::{Regex, RegexBuilder};

/// Longest glob, in bytes.
const LONGEST: usize = 512;

/// A glob over project paths: `*` and `?` stop at `/`, `**` does not. Compared without ASCII case, as GitLab compares paths.
#[derive(Clone, Debug)]
pub struct ProjectGlob(Regex);

/// A glob over texts that are no paths, such as refs and environments: `*` and `?` stop at `/`, `**` does not. Compared
/// exactly: `Main` is another ref than `main`.
#[derive(Clone, Debug)]
pub struct TextGlob(Regex);

/// Why a text is no glob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a glob over project paths: letters, digits, `_`, `-`, `.`, `/`, `*`, `?`, at most 512 of them")]
pub struct BadGlob(String);

/// Why a text is no glob over texts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a glob: 1 to {LONGEST} bytes without control characters")]
pub struct BadTextGlob(String);

impl ProjectGlob {
    /// Compiles a glob.
    ///
    /// # Errors
    ///
    /// [`BadGlob`] for characters that no path has.
    pub fn parse(glob: &str) -> Result<Self, BadGlob> {
        let fine = |c: char| c.is_ascii_alphanumeric() || "_-./*?".contains(c);
        let known = !glob.is_empty() && glob.len() <= LONGEST && glob.chars().all(fine);
        known.then(|| compile(glob, true)).flatten().map(Self).ok_or_else(|| BadGlob(shown(glob)))
    }

    /// Whether a path matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.0.is_match(path)
    }
}

impl TextGlob {
    /// Compiles a glob.
    ///
    /// # Errors
    ///
    /// [`BadTextGlob`] for one that is empty, too long, or has control characters.
    pub fn parse(glob: &str) -> Result<Self, BadTextGlob> {
        let known = !glob.is_empty() && glob.len() <= LONGEST && !glob.chars().any(char::is_control);
        known.then(|| compile(glob, false)).flatten().map(Self).ok_or_else(|| BadTextGlob(shown(glob)))
    }

    /// Whether a text matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for ProjectGlob {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for ProjectGlob {}

impl PartialEq for TextGlob {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for TextGlob {}

fn compile(glob: &str, any_case: bool) -> Option<Regex> {
    let mut pattern = String::from("^");
    let mut rest = glob;
    while let Some(c) = rest.chars().next() {
        let (part, length) = match c {
            '*' if rest.starts_with("**") => (".*".to_owned(), 2),
            '*' => ("[^/]*".to_owned(), 1),
            '?' => ("[^/]".to_owned(), 1),
            c => (regex::escape(c.encode_utf8(&mut [0; 4])), c.len_utf8()),
        };
        pattern.push_str(&part);
        rest = &rest[length..];
    }
    pattern.push('$');
    RegexBuilder::new(&pattern).case_insensitive(any_case).dot_matches_new_line(true).build().ok()
}

fn shown(glob: &str) -> String {
    glob.chars().take(64).map(|c| if c.is_control() { ' ' } else { c }).collect()
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

    #[test]
    fn texts_may_hold_anything_and_are_compared_exactly() {
        let matches = |glob: &str, text: &str| TextGlob::parse(glob).unwrap().matches(text);
        assert!(matches("main", "main") && !matches("main", "Main") && !matches("main", "main2"));
        assert!(matches("release/*", "release/1.2") && !matches("release/*", "release/1.2/hotfix"));
        assert!(matches("review/**", "review/fix (é) #7/eu+west"));
        assert!(matches("prüf$[a]+ (x)", "prüf$[a]+ (x)") && !matches("v1.0", "v1x0"));
        assert!(matches("é?ü", "éaü") && matches("**", "a\nb") && !matches("main", "main\n"));
        for bad in ["", "a\nb", "a\u{0}", &"x".repeat(513)] {
            assert!(TextGlob::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(TextGlob::parse("a*").unwrap(), TextGlob::parse("a*").unwrap());
    }
}
