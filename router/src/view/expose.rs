use std::sync::Arc;

use jobgate_yaml::nearest;

/// What a controller is shown beyond what everyone is: its `expose` list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Expose {
    script: bool,
    /// Sorted; keys of variables, with `*` and `?`.
    variables: Arc<[String]>,
}

/// A word of an `expose` list that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` cannot be exposed: write `script`, or keys of variables as `DEPLOY_*`{hint}")]
pub struct UnknownExpose {
    word: String,
    hint: &'static str,
}

impl Expose {
    /// Reads a list of `script` and keys of variables. `*` and `?` stand for letters of keys. A key in lower case is written
    /// `variables.key`, so that a misspelt word is not taken for one.
    ///
    /// # Errors
    ///
    /// Every word that is neither.
    pub fn parse<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> Result<Self, Vec<UnknownExpose>> {
        let (mut script, mut variables, mut unknown) = (false, Vec::new(), Vec::new());
        for word in words {
            match word.as_ref() {
                "script" => script = true,
                word => match key(word) {
                    Some(key) => variables.push(key.to_owned()),
                    None => unknown.push(UnknownExpose::new(word)),
                },
            }
        }
        variables.sort_unstable();
        variables.dedup();
        match unknown.is_empty() {
            true => Ok(Self { script, variables: variables.into() }),
            false => Err(unknown),
        }
    }

    /// The list again: `script`, and keys of variables.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let script = self.script.then_some("script");
        script.into_iter().chain(self.variables.iter().map(String::as_str))
    }

    /// Whether nothing is exposed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.script && self.variables.is_empty()
    }

    /// Whether the script is.
    #[must_use]
    pub fn script(&self) -> bool {
        self.script
    }

    /// Whether the variable of this key is, if it is public.
    #[must_use]
    pub fn variable(&self, key: &str) -> bool {
        self.variables.iter().any(|pattern| matches(pattern.as_bytes(), key.as_bytes()))
    }
}

impl UnknownExpose {
    fn new(word: &str) -> Self {
        let hint = match nearest(word, ["script", "variables"]) {
            Some("script") => "; did you mean `script`?",
            Some(_) => "; variables are exposed by their keys",
            None => "",
        };
        Self { word: word.chars().take(64).collect(), hint }
    }
}

fn key(word: &str) -> Option<&str> {
    let (key, said) = match word.strip_prefix("variables.") {
        Some(key) => (key, true),
        None => (word, false),
    };
    let letters = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'*' | b'?'));
    let telling = said || !key.bytes().any(|byte| byte.is_ascii_lowercase());
    (!key.is_empty() && letters && telling).then_some(key)
}

/// Whether a key is what a pattern says; `*` is any letters, `?` is one.
fn matches(pattern: &[u8], key: &[u8]) -> bool {
    let (mut p, mut k) = (0, 0);
    // Where to go back to: the last star, and how much of the key it has taken.
    let mut star: Option<(usize, usize)> = None;
    while k < key.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, k));
                p += 1;
            }
            Some(letter) if *letter == b'?' || *letter == key[k] => {
                p += 1;
                k += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    k = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_script_or_keys() {
        let expose = Expose::parse(["script", "DEPLOY_*", "A?C", "variables.lower"]).unwrap();
        assert!(expose.script());
        for key in ["DEPLOY_", "DEPLOY_ENV", "ABC", "lower"] {
            assert!(expose.variable(key), "{key}");
        }
        for key in ["deploy_env", "XDEPLOY_ENV", "AC", "ABBC", "script", ""] {
            assert!(!expose.variable(key), "{key}");
        }
        assert!(Expose::parse(["*"]).unwrap().variable("anything_At_all"));
        assert!(Expose::default().is_empty() && !expose.is_empty());
    }

    #[test]
    fn unknown_words_are_refused_all_at_once() {
        let unknown = Expose::parse(["scripts", "variables", "A B", "", "DEPLOY_ENV", "$A"]).unwrap_err();
        assert_eq!(unknown.len(), 5);
        assert!(unknown[0].to_string().ends_with("did you mean `script`?"), "{}", unknown[0]);
        assert!(unknown[1].to_string().ends_with("exposed by their keys"), "{}", unknown[1]);
    }

    #[test]
    fn equal_lists_are_equal() {
        assert_eq!(Expose::parse(["B", "A", "A"]), Expose::parse(["A", "B"]));
    }
}
