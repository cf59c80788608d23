use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use jiff::civil::Date;
use jobgate_yaml::{Fault, Faults};

use super::test::{self, RuleCoverage};
use crate::{LoadOptions, PolicySet, files::Files};

/// What is to be said about policies without asking them about a job.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Names of the policies, in the order of their files. Empty when there are faults.
    pub policies: Vec<String>,
    /// Digest of what was checked, when it has no faults.
    pub version: Option<Arc<str>>,
    /// Everything that keeps them from being loaded, test files included.
    pub faults: Option<Faults>,
    /// What is allowed, but hardly meant; exemptions that have ended, or will within two weeks.
    pub warnings: Vec<Fault>,
    /// The rules of YAML policies, and whether a test case names them.
    pub coverage: Vec<RuleCoverage>,
}

/// Loads policies and their tests, and says everything that can be said about them. `today` is the day in UTC; exemptions are
/// measured by it.
#[must_use]
pub fn check(paths: &[PathBuf], options: &LoadOptions, today: Date) -> CheckReport {
    let files = match Files::read(paths) {
        Ok(files) => files,
        Err(faults) => return CheckReport { faults: Some(faults), ..CheckReport::default() },
    };
    let loaded = match PolicySet::compile(&files, options) {
        Ok(loaded) => loaded,
        Err(faults) => return CheckReport { faults: Some(faults), ..CheckReport::default() },
    };
    let (suites, faults) = test::suites(&files, &loaded.set);
    let mut warnings = loaded.warnings;
    for (_, policy) in &loaded.set.yaml {
        warnings.extend(policy.ending(today));
    }

    let named: BTreeSet<String> = suites.iter().flat_map(test::Suite::named_rules).collect();
    let coverage = test::yaml_rules(&loaded.set, |rule| named.contains(rule));
    CheckReport {
        policies: loaded.set.names().map(str::to_owned).collect(),
        version: Some(loaded.set.version().clone()),
        faults: Faults::collect(faults),
        warnings,
        coverage,
    }
}
