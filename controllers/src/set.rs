use std::{collections::HashMap, path::PathBuf, sync::Arc};

use jobgate_sdk::{AdmissionRequest, Controller, Outcome, Verdict, async_trait};
use jobgate_yaml::{Document, Fault, Faults, Limits, Source, Value};

use crate::{
    Exposed, Reads,
    files::{File, Files},
    rego::{RegoOptions, RegoPolicy, SourceFile},
    yaml::{self, Finding, Findings, YamlPolicy},
};

/// The policies of one controller, compiled: Rego, YAML, or both.
///
/// All of them are asked. One rejection rejects; else one failure fails; else the job is admitted.
#[derive(Debug)]
pub struct PolicySet {
    pub(crate) yaml: Vec<(usize, YamlPolicy)>,
    pub(crate) rego: Option<(usize, RegoPolicy)>,
    names: Vec<String>,
    version: Arc<str>,
    reads: Reads,
}

/// How policies are loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Package of the Rego policy, dotted; `jobgate` by default.
    pub package: String,
    /// What the router sends this controller beyond the ordinary: `script`, keys of variables.
    pub expose: Vec<String>,
}

/// A set of policies, and what was noticed while loading it.
#[derive(Debug)]
pub struct Loaded {
    /// The policies.
    pub set: PolicySet,
    /// What is allowed, but hardly meant.
    pub warnings: Vec<Fault>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { package: "jobgate".into(), expose: Vec::new() }
    }
}

impl PolicySet {
    /// Loads every policy at or below these paths: `.rego`, `.yaml` and `.yml` files, with `data.json` and `data.yaml` for
    /// Rego. Hidden files are skipped; `*_test.rego` and `*.test.yaml` are tests and no part of the policy.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with any of them; a path without a policy; two policies of one name.
    pub fn load(paths: &[PathBuf], options: &LoadOptions) -> Result<Loaded, Faults> {
        Self::compile(&Files::read(paths)?, options)
    }

    /// The same from texts, each with the name of the file it would be in.
    ///
    /// # Errors
    ///
    /// As [`PolicySet::load`].
    pub fn from_texts<'a>(
        texts: impl IntoIterator<Item = (&'a str, &'a str)>,
        options: &LoadOptions,
    ) -> Result<Loaded, Faults> {
        let files = Files::from_texts(texts);
        if files.rego.is_empty() && files.yaml.is_empty() {
            return Err(Fault::new("policy", "no policy among these texts").into());
        }
        Self::compile(&files, options)
    }

    pub(crate) fn compile(files: &Files, options: &LoadOptions) -> Result<Loaded, Faults> {
        let exposed = Exposed::new(&options.expose);
        let version = files.digest();
        let mut faults = Vec::new();
        let mut keep = |found: Faults| faults.extend(found);

        let yaml: Vec<_> = files
            .yaml
            .iter()
            .filter_map(|file| match YamlPolicy::load(&yaml::source(&file.shown(), &file.text), &exposed) {
                Ok(policy) => Some((file.order, policy)),
                Err(found) => {
                    keep(found);
                    None
                }
            })
            .collect();
        let data = data(&files.data).map_err(&mut keep).unwrap_or_default();
        let rego = match files.rego.first() {
            None => None,
            Some(first) => load_rego(files, data, options, &exposed, &version)
                .map(|policy| (first.order, policy))
                .map_err(&mut keep)
                .ok(),
        };
        faults.extend(twice(&yaml));
        if let Some(faults) = Faults::collect(faults) {
            return Err(faults);
        }

        let mut warnings: Vec<_> = yaml.iter().flat_map(|(_, policy)| policy.lints().iter().cloned()).collect();
        warnings.extend(rego.iter().flat_map(|(_, policy)| policy.lints().iter().cloned()));
        if files.rego.is_empty() {
            let unread = |file: &File| Fault::new(file.shown(), "no Rego policy reads this data");
            warnings.extend(files.data.iter().map(unread));
        }
        let set = Self::join(yaml, rego, version, options);
        Ok(Loaded { set, warnings })
    }

    fn join(
        yaml: Vec<(usize, YamlPolicy)>,
        rego: Option<(usize, RegoPolicy)>,
        version: Arc<str>,
        options: &LoadOptions,
    ) -> Self {
        let rego_reads = rego.as_ref().map(|(_, policy)| policy.reads().clone()).unwrap_or_default();
        let reads = yaml.iter().fold(rego_reads, |reads, (_, policy)| reads.and(policy.reads()));
        let mut names: Vec<_> = yaml.iter().map(|(order, policy)| (*order, policy.name().to_owned())).collect();
        names.extend(rego.iter().map(|(order, _)| (*order, options.package.clone())));
        names.sort();
        let names = names.into_iter().map(|(_, name)| name).collect();
        Self { yaml, rego, names, version, reads }
    }

    /// Digest of the files it was loaded from, shortened: `sha256:0123456789ab`. Decisions name it.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// What of a question its policies read.
    #[must_use]
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Every field of the question its Rego policies read, dotted: `job.image.registry`.
    pub fn rego_fields(&self) -> impl Iterator<Item = &str> {
        self.rego.iter().flat_map(|(_, rego)| rego.fields().iter().copied())
    }

    /// Rego evaluations that did not stop in time and cost their thread, since this version was loaded.
    #[must_use]
    pub fn overdue(&self) -> u64 {
        self.rego.as_ref().map_or(0, |(_, rego)| rego.overdue())
    }

    /// Names of its policies, in the order of their files; a Rego policy goes by its package.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

fn load_rego(
    files: &Files,
    data: Option<serde_json::Value>,
    options: &LoadOptions,
    exposed: &Exposed,
    version: &Arc<str>,
) -> Result<RegoPolicy, Faults> {
    let options = RegoOptions {
        package: options.package.clone(),
        exposed: exposed.clone(),
        version: version.clone(),
        ..RegoOptions::default()
    };
    RegoPolicy::load(&sources(&files.rego), data, &options)
}

pub(crate) fn sources(files: &[File]) -> Vec<SourceFile> {
    files.iter().map(|file| SourceFile { path: file.path.clone(), text: file.text.clone() }).collect()
}

/// The data of all data files, joined at the top.
fn data(files: &[File]) -> Result<Option<serde_json::Value>, Faults> {
    let mut all = serde_json::Map::new();
    let mut from: HashMap<String, String> = HashMap::new();
    let mut faults = Vec::new();
    for file in files {
        let source = Source::new(file.shown(), file.text.clone());
        let document = match Document::parse(&source, Limits::default()) {
            Ok(document) => document,
            Err(found) => {
                faults.extend(found);
                continue;
            }
        };
        let Value::Map(entries) = &document.root().value else {
            faults.push(source.fault(document.root().place, "data is a mapping"));
            continue;
        };
        for entry in entries {
            if let Some(first) = from.insert(entry.key.clone(), file.shown()) {
                faults.push(source.fault(entry.place, format!("`{}` is in {first} already", entry.key)));
            }
            all.insert(entry.key.clone(), entry.node.to_json());
        }
    }
    match Faults::collect(faults) {
        Some(faults) => Err(faults),
        None => Ok((!files.is_empty()).then_some(serde_json::Value::Object(all))),
    }
}

fn twice(policies: &[(usize, YamlPolicy)]) -> Vec<Fault> {
    let mut seen = HashMap::new();
    let mut faults = Vec::new();
    for (_, policy) in policies {
        if let Some(first) = seen.insert(policy.name(), policy.file()) {
            let message = format!("a second policy `{}`; the first is in {first}", policy.name());
            faults.push(Fault::new(policy.file(), message).help("rename one of them"));
        }
    }
    faults
}

/// What one policy, or all YAML policies between two others, came to.
pub(crate) enum Part {
    Yaml(Findings),
    Rego(Verdict),
}

#[async_trait]
impl Controller for PolicySet {
    async fn admit(&self, request: &AdmissionRequest) -> Verdict {
        let verdict = match self.undecidable(request) {
            Some(message) => Verdict::fail(message),
            None => self.ask(request).await,
        };
        verdict.policy_version(self.version.clone())
    }
}

impl PolicySet {
    /// Why this question cannot be decided, if it cannot.
    fn undecidable(&self, request: &AdmissionRequest) -> Option<String> {
        if self.reads.script && request.job().script.is_none() {
            // Unknown because it is not sent, never because of the job: a rule on it would be silent about every job.
            let message =
                "a policy reads the script, but it is not sent: the controller's `expose` list lacks `script`";
            return Some(message.to_owned());
        }
        // Rego has a limit of its own, on the whole question.
        let size = if self.yaml.is_empty() { 0 } else { size(request) };
        (size > MOST_INPUT)
            .then(|| format!("a question of {size} bytes is more than the {MOST_INPUT} policies look at"))
    }

    async fn ask(&self, request: &AdmissionRequest) -> Verdict {
        let Some((order, rego)) = &self.rego else {
            let findings = self.judge(request, |_| true);
            return if findings.is_empty() { Verdict::admit() } else { verdict(vec![Part::Yaml(findings)]) };
        };
        let before = self.judge(request, |at| at < *order);
        let asked = rego.decide(request).await;
        let after = self.judge(request, |at| at > *order);
        verdict(vec![Part::Yaml(before), Part::Rego(asked), Part::Yaml(after)])
    }

    fn judge(&self, request: &AdmissionRequest, wanted: impl Fn(usize) -> bool) -> Findings {
        let mut findings = Findings::default();
        for (_, policy) in self.yaml.iter().filter(|(order, _)| wanted(*order)) {
            policy.judge(request, &mut findings);
        }
        findings
    }
}

/// Bytes of script and variables that YAML policies look at.
const MOST_INPUT: usize = 1 << 20;

fn size(request: &AdmissionRequest) -> usize {
    let job = request.job();
    let script = job.script.iter().flat_map(|script| &script.lines).map(|line| line.text.len());
    let variables = job.variables.iter().map(|one| one.key.len() + one.value.as_ref().map_or(0, String::len));
    script.chain(variables).sum()
}

/// The first rejection gives the reason; the others become warnings, so that its author sees them all at once.
pub(crate) fn verdict(parts: Vec<Part>) -> Verdict {
    let mut rejection: Option<Verdict> = None;
    let mut failure: Option<Verdict> = None;
    let mut notes: Vec<String> = Vec::new();
    let mut exempted: Vec<String> = Vec::new();
    for part in parts {
        match part {
            Part::Yaml(findings) => {
                for Finding { rule, message } in findings.rejections {
                    match &rejection {
                        None => rejection = Some(Verdict::reject(message).rule(&*rule)),
                        Some(_) => notes.push(format!("also rejected by rule {rule}: {message}")),
                    }
                }
                notes.extend(
                    findings.warnings.into_iter().map(|warning| format!("rule {}: {}", warning.rule, warning.message)),
                );
                exempted.extend(findings.exempted);
            }
            Part::Rego(asked) => {
                notes.extend(asked.warnings().iter().cloned());
                exempted.extend(asked.exempted().iter().cloned());
                match asked.outcome() {
                    Outcome::Admitted => {}
                    Outcome::Rejected(found) if rejection.is_some() => {
                        let rule = found.rule().map(|rule| format!(" by rule {rule}")).unwrap_or_default();
                        notes.push(format!("also rejected{rule}: {}", found.reason()));
                    }
                    Outcome::Rejected(found) => {
                        let rule = found.rule().unwrap_or_default();
                        let url = found.details_url().unwrap_or_default();
                        rejection = Some(Verdict::reject(found.reason().as_str()).rule(rule).details_url(url));
                    }
                    Outcome::Failed(found) => failure = Some(Verdict::failed(found.cause(), found.message())),
                }
            }
        }
    }
    if let (Some(_), Some(failed)) = (&rejection, failure.as_ref().and_then(Verdict::failure)) {
        notes.push(format!("a policy failed: {}", failed.message()));
    }
    let verdict = rejection.or(failure).unwrap_or_else(Verdict::admit);
    let verdict = notes.into_iter().fold(verdict, Verdict::warn);
    exempted.into_iter().fold(verdict, Verdict::exempt)
}
