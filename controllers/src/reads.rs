use std::collections::BTreeSet;

use crate::yaml;

/// What of a question a policy reads, known when it is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// It reads the runner, so it must be asked again when one is chosen.
    pub runner: bool,
    /// It reads the job's script, which only controllers that `expose` it are sent.
    pub script: bool,
    /// Keys of the variables whose values it reads.
    pub variables: BTreeSet<String>,
}

impl Reads {
    /// What this and `other` read together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.runner |= other.runner;
        self.script |= other.script;
        self.variables.extend(other.variables.iter().cloned());
        self
    }
}

/// What the router sends a controller beyond what it sends all: its `expose` list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exposed {
    script: bool,
    /// Keys, with `*` and `?`.
    variables: BTreeSet<String>,
}

impl Exposed {
    /// Reads an `expose` list: `script`, and keys of variables, as `DEPLOY_*` or `variables.key`. A word that the router would
    /// refuse exposes nothing.
    pub fn new<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        let mut exposed = Self::default();
        for name in names {
            match name.as_ref() {
                "script" => exposed.script = true,
                key => _ = exposed.variables.insert(key.strip_prefix("variables.").unwrap_or(key).to_owned()),
            }
        }
        exposed
    }

    /// Whether the job's script is sent.
    #[must_use]
    pub fn script(&self) -> bool {
        self.script
    }

    /// Whether the value of this variable is sent, as long as it is public.
    #[must_use]
    pub fn variable(&self, key: &str) -> bool {
        jobgate_sdk::is_predefined(key) || self.variables.iter().any(|pattern| yaml::matches(pattern, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_the_router_reads_it() {
        let exposed = Exposed::new(["script", "DEPLOY_*", "variables.lower"]);
        assert!(exposed.script() && exposed.variable("DEPLOY_ENV") && exposed.variable("lower"));
        assert!(exposed.variable("CI_PIPELINE_SOURCE") && !exposed.variable("CI_JOB_TOKEN"));
        assert!(!Exposed::new(["[x"]).variable("[x"));
    }
}
