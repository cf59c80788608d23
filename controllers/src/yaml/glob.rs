use std::borrow::Cow;

use regex::{Regex, RegexBuilder};

/// A pattern for names: `*` and `?` stop at `/`, `**` does not; everything else stands for itself.
#[derive(Clone, Debug)]
pub(super) struct Glob {
    text: Box<str>,
    fold: bool,
    form: Form,
}

/// Whether upper and lower case differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// They do.
    Exact,
    /// They do not, for ASCII letters: paths of projects and groups, host names.
    Folded,
}

/// The common forms need no automaton.
#[derive(Clone, Debug)]
enum Form {
    All,
    Literal(Box<str>),
    Prefix(Box<str>),
    Regex(Regex),
}

/// What is wrong with a pattern, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadPattern {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

pub(super) const LONGEST: usize = 512;
const REGEX_BYTES: usize = 1 << 20;

impl Glob {
    pub(super) fn new(text: &str, case: Case) -> Result<Self, BadPattern> {
        check(text)?;
        let fold = case == Case::Folded;
        let folded = if fold { text.to_ascii_lowercase() } else { text.to_owned() };
        let form = match folded.find(['*', '?']) {
            _ if folded == "**" => Form::All,
            None => Form::Literal(folded.into()),
            Some(at) if &folded[at..] == "**" => Form::Prefix(folded[..at].into()),
            Some(_) => Form::Regex(automaton(&folded)?),
        };
        Ok(Self { text: text.into(), fold, form })
    }

    pub(super) fn matches(&self, value: &str) -> bool {
        match &self.form {
            Form::All => true,
            Form::Literal(text) if self.fold => text.eq_ignore_ascii_case(value),
            Form::Literal(text) => **text == *value,
            Form::Prefix(prefix) if self.fold => {
                value.as_bytes().get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
            }
            Form::Prefix(prefix) => value.starts_with(&**prefix),
            Form::Regex(regex) => regex.is_match(&folded(value, self.fold)),
        }
    }

    /// As written.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

impl BadPattern {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

fn folded(value: &str, fold: bool) -> Cow<'_, str> {
    match fold && value.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(value.to_ascii_lowercase()),
        false => Cow::Borrowed(value),
    }
}

/// Refuses what would silently match nothing, or not what its author meant.
fn check(text: &str) -> Result<(), BadPattern> {
    if text.chars().count() > LONGEST {
        return Err(BadPattern::new(format!("a pattern has at most {LONGEST} characters")));
    }
    if text.trim() != text {
        return Err(BadPattern::new("a pattern does not begin or end with a blank"));
    }
    if let Some(c) = text.chars().find(|c| c.is_control()) {
        return Err(BadPattern::new(format!("a pattern has no control characters, but this has {c:?}")));
    }
    if text.contains("***") {
        return Err(BadPattern::new("`***` is not a wildcard").help("`*` stops at `/`, `**` does not"));
    }
    if let Some(c) = text.chars().find(|c| matches!(c, '[' | ']' | '{' | '}' | '\\')) {
        let help = "write one pattern for each alternative; `?` stands for any one character, a bracket too";
        return Err(BadPattern::new(format!("`{c}` is not part of patterns here")).help(help));
    }
    if text.starts_with('!') {
        return Err(BadPattern::new("a pattern cannot be negated").help("use `forbid` for what must not be"));
    }
    Ok(())
}

fn automaton(text: &str) -> Result<Regex, BadPattern> {
    let mut regex = String::from("(?s)^");
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (piece, taken) = match c {
            '*' if rest.starts_with("**") => (".*", 2),
            '*' => ("[^/]*", 1),
            '?' => ("[^/]", 1),
            _ => ("", c.len_utf8()),
        };
        match piece {
            "" => regex.push_str(&regex::escape(&rest[..taken])),
            piece => regex.push_str(piece),
        }
        rest = &rest[taken..];
    }
    regex.push('$');
    RegexBuilder::new(&regex)
        .size_limit(REGEX_BYTES)
        .dfa_size_limit(REGEX_BYTES)
        .build()
        .map_err(|_| BadPattern::new("this pattern is too large to compile").help("use fewer wildcards"))
}

/// Whether a name is what a pattern says; a pattern that is none matches nothing.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    Glob::new(pattern, Case::Exact).is_ok_and(|glob| glob.matches(name))
}

/// Patterns of one matcher: any of them may match. `""` stands for what is empty, absent or unknown, and only it does.
#[derive(Clone, Debug, Default)]
pub(super) struct Patterns {
    /// Whether `""` is among them.
    pub(super) absent: bool,
    globs: Vec<Glob>,
}

impl Patterns {
    pub(super) fn add(&mut self, text: &str, case: Case) -> Result<(), BadPattern> {
        match text {
            "" => self.absent = true,
            _ => self.globs.push(Glob::new(text, case)?),
        }
        Ok(())
    }

    pub(super) fn matches(&self, value: Option<&str>) -> bool {
        match value {
            None | Some("") => self.absent,
            Some(value) => self.globs.iter().any(|glob| glob.matches(value)),
        }
    }

    /// As written, for messages.
    pub(super) fn written(&self) -> impl Iterator<Item = &str> {
        self.globs.iter().map(Glob::as_str).chain(self.absent.then_some(""))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, value: &str) -> bool {
        Glob::new(pattern, Case::Exact).expect(pattern).matches(value)
    }

    #[test]
    fn one_star_stops_at_a_slash_and_two_do_not() {
        for (pattern, value, expected) in [
            ("acme/*", "acme/api", true),
            ("acme/*", "acme/payments/api", false),
            ("acme/**", "acme/payments/api", true),
            ("acme/**", "acme-evil/api", false),
            ("acme/**", "acme", false),
            ("**/api", "acme/payments/api", true),
            ("**/api", "api", false),
            ("a**b", "a/x/b", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a?c", "aéc", true),
            ("1.2", "1x2", false),
            ("v*", "v1\nx", true),
            ("api", "my-api", false),
            ("api", "api2", false),
            ("**", "", true),
        ] {
            assert_eq!(matches(pattern, value), expected, "{pattern} on {value:?}");
        }
    }

    #[test]
    fn folded_case_is_ascii_only() {
        for pattern in ["ACME/api", "ACME/**", "ac*/A?I"] {
            let glob = Glob::new(pattern, Case::Folded).unwrap();
            assert!(glob.matches("acme/API"), "{pattern}");
        }
        assert!(!Glob::new("ACMÉ/api", Case::Folded).unwrap().matches("acmé/api"));
        assert!(!Glob::new("k/*", Case::Folded).unwrap().matches("\u{212a}/x"), "the Kelvin sign is no k");
    }

    #[test]
    fn what_would_silently_match_nothing_is_refused() {
        for pattern in ["a[bc]", "{a,b}", "a\\*", "!a", " a", "a\t", "a***", &"?".repeat(513)] {
            assert!(Glob::new(pattern, Case::Exact).is_err(), "{pattern}");
        }
        assert!(Glob::new(&"*?".repeat(256), Case::Exact).is_ok());
    }

    #[test]
    fn only_the_empty_pattern_stands_for_nothing() {
        let mut patterns = Patterns::default();
        patterns.add("**", Case::Exact).unwrap();
        assert!(!patterns.matches(None) && !patterns.matches(Some("")));
        patterns.add("", Case::Exact).unwrap();
        assert!(patterns.matches(None) && patterns.matches(Some("")));
    }

    /// The definition, slow and plain.
    fn plain(pattern: &[char], value: &[char]) -> bool {
        match pattern {
            [] => value.is_empty(),
            ['*', '*', rest @ ..] => (0..=value.len()).any(|at| plain(rest, &value[at..])),
            ['*', rest @ ..] => {
                (0..=value.len()).take_while(|at| *at == 0 || value[at - 1] != '/').any(|at| plain(rest, &value[at..]))
            }
            ['?', rest @ ..] => value.first().is_some_and(|c| *c != '/') && plain(rest, &value[1..]),
            [c, rest @ ..] => value.first() == Some(c) && plain(rest, &value[1..]),
        }
    }

    proptest! {
        #[test]
        fn it_is_what_its_definition_says(pattern in "[ab/*?.]{1,8}", value in "[ab/.]{0,8}") {
            prop_assume!(!pattern.contains("***"));
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &value), plain(&chars(&pattern), &chars(&value)));
        }
    }
}
