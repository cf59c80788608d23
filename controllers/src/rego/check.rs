//! What is refused at load, because it would admit in silence, and what the policy reads.

use std::collections::{BTreeMap, BTreeSet};

use jobgate_yaml::{Fault, Faults, Place};
use regorus::{
    Engine,
    unstable::{Expr, Module, NodeRef, Rule, RuleHead, Span},
};

use super::{
    RegoOptions, RuleAt, SourceFile,
    annotations::{self, Annotation},
    fields::Node,
    graph,
    names::{self, Names},
    place,
    rules::RuleInfo,
    source,
    walk::{self, Walk},
};
use crate::Reads;

/// What a policy turned out to be.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) rules: Vec<RuleInfo>,
    pub(crate) reads: Reads,
    /// Every field that is read, dotted.
    pub(crate) fields: BTreeSet<&'static str>,
    /// What is allowed but hardly meant.
    pub(crate) lints: Vec<Fault>,
}

/// Compiles and checks a policy. Every fault at once, as far as they do not hide each other.
pub(crate) fn check(
    files: &[SourceFile],
    data: Option<&serde_json::Value>,
    options: &RegoOptions,
) -> Result<Checked, Faults> {
    let modules = parse(files)?;
    let names = Names::gather(&modules);
    let mut checker =
        Checker { files, modules: &modules, options, names: &names, faults: Vec::new(), rules: Vec::new() };
    checker.packages(data);
    checker.structure();
    let annotations = checker.annotations();

    let mut walk = Walk::new(files, &modules, &names, data);
    let needs = checker.needs(&annotations, &mut walk.needy);
    walk.run();
    for (node, at) in needs {
        node.all()
            .into_iter()
            .filter(|node| !node.path().is_empty())
            .for_each(|node| _ = walk.reads.entry(node).or_insert(at));
    }
    checker.faults.append(&mut walk.faults);
    checker.exposed(&walk);
    let edges = std::mem::take(&mut walk.edges);
    checker.faults.extend(too_deep(files, &modules, &edges));
    checker.unused(&edges);
    let lints = checker.lints(&walk);
    checker.name_rules(&annotations);
    if checker.faults.is_empty() {
        checker.prepare(data);
    }
    match Faults::collect(checker.faults) {
        Some(faults) => Err(faults),
        None => Ok(Checked { rules: checker.rules, reads: reads(&walk), fields: paths(&walk), lints }),
    }
}

/// Parses each file by itself, so that one does not hide the faults of another.
pub(crate) fn parse(files: &[SourceFile]) -> Result<Vec<NodeRef<Module>>, Faults> {
    let mut engine = Engine::new();
    let mut faults = Vec::new();
    for file in files {
        if let Some(fault) = source::check(file) {
            faults.push(fault);
            continue;
        }
        let name = file.path.display().to_string();
        if let Err(error) = engine.add_policy(name.clone(), file.text.to_string()) {
            faults.push(place::fault(&error.to_string(), files, &name));
        }
    }
    match Faults::collect(faults) {
        Some(faults) => Err(faults),
        None => Ok(engine.get_modules().clone()),
    }
}

fn reads(walk: &Walk<'_>) -> Reads {
    let reads_below = |path: &str| walk.reads.keys().any(|node| is_at_or_below(node.path(), path));
    let values = reads_below("job.variables.value");
    Reads {
        runner: reads_below("runner"),
        script: reads_below("job.script"),
        variables: walk.keys.keys().filter(|_| values).cloned().collect(),
    }
}

fn paths(walk: &Walk<'_>) -> BTreeSet<&'static str> {
    walk.reads.keys().map(|node| node.path()).collect()
}

fn is_at_or_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

struct Checker<'a> {
    files: &'a [SourceFile],
    modules: &'a [NodeRef<Module>],
    options: &'a RegoOptions,
    names: &'a Names,
    faults: Vec<Fault>,
    rules: Vec<RuleInfo>,
}

impl Checker<'_> {
    fn fault(&mut self, module: usize, span: &Span, message: impl Into<String>, help: &str) {
        self.fault_at(module, walk::place(span), message, help);
    }

    fn fault_at(&mut self, module: usize, place: Place, message: impl Into<String>, help: &str) {
        let fault = self.files[module].source().fault(place, message);
        self.faults.push(if help.is_empty() { fault } else { fault.help(help) });
    }

    /// Packages that would hide, or be hidden by, something else.
    fn packages(&mut self, data: Option<&serde_json::Value>) {
        for (index, module) in self.modules.iter().enumerate() {
            let package = names::package(module);
            let below = package.strip_prefix(&self.options.package).and_then(|rest| rest.strip_prefix('.'));
            if below.is_some_and(|below| matches!(below.split('.').next(), Some("deny" | "warn"))) {
                let message = format!("package `{package}` would stand in the way of the rules of that name");
                self.fault(index, &module.package.span, message, "call it something else");
            }
            if package.split('.').any(|part| part.starts_with("__")) {
                self.fault(
                    index,
                    &module.package.span,
                    "names that begin with `__` are jobgate's own",
                    "call it something else",
                );
            }
            // The engine prefers the data document to a rule of the same path, without a word.
            let mut hidden = data;
            for part in package.split('.') {
                hidden = hidden.and_then(|data| data.get(part));
            }
            if hidden.is_some() {
                let message =
                    format!("the data document has `{package}` too, and would replace the rules of this package");
                self.fault(index, &module.package.span, message, "rename the key in the data document");
            }
        }
    }

    fn structure(&mut self) {
        for (index, module) in self.modules.iter().enumerate() {
            let own = names::package(module) == self.options.package;
            for (at, rule) in module.policy.iter().enumerate() {
                if own {
                    self.finding_rule(RuleAt { module: index, rule: at }, rule);
                }
                if let Rule::Spec { head: RuleHead::Func { refr, args, .. }, .. } = rule.as_ref() {
                    if !matches!(refr.as_ref(), Expr::Var { .. }) {
                        self.fault(index, refr.span(), "the name of a function must be one word", "");
                    }
                    if args.is_empty() {
                        self.fault(index, refr.span(), "a function without arguments is a rule", "leave `()` out");
                    }
                }
            }
        }
        if !self.rules.iter().any(|rule| rule.set == "deny") && self.faults.is_empty() {
            let package = &self.options.package;
            let found: Vec<_> = self.names.packages().map(|package| format!("`{package}`")).collect();
            let found = if found.is_empty() { "no package".into() } else { found.join(", ") };
            let message = format!("no `deny` in package `{package}`: it would admit every job; the files hold {found}");
            let help = format!(
                "add a rule such as `deny contains \"why\" if {{ … }}` to a file that begins with `package {package}`"
            );
            self.faults.push(
                Fault::new(
                    self.files.first().map_or_else(String::new, |file| file.path.display().to_string()),
                    message,
                )
                .help(help),
            );
        }
    }

    fn finding_rule(&mut self, at: RuleAt, rule: &Rule) {
        let name = names::rule_name(rule);
        let set = match name.as_str() {
            "deny" => "deny",
            "warn" => "warn",
            _ => return,
        };
        let span = match rule {
            Rule::Spec { span, .. } | Rule::Default { span, .. } => span,
        };
        let contains = match rule {
            Rule::Spec { head: RuleHead::Set { refr, key: Some(key), .. }, .. } => {
                let between = span.source.contents().get(refr.span().end as usize..key.span().start as usize);
                matches!(refr.as_ref(), Expr::Var { .. }) && between.is_some_and(|text| text.contains("contains"))
            }
            _ => false,
        };
        if !contains {
            let message = format!("`{set}` must be a set, made by `contains` rules only");
            return self.fault(at.module, span, message, &format!("write `{set} contains \"why\" if {{ … }}`"));
        }
        self.rules.push(RuleInfo {
            set,
            name: None,
            details_url: None,
            file: self.files[at.module].path.display().to_string(),
            lines: (span.line, last_line(span)),
            at,
        });
    }

    fn annotations(&mut self) -> Vec<Vec<Annotation>> {
        self.files.iter().map(|file| annotations::read(&file.source(), &mut self.faults)).collect()
    }

    /// The fields that annotations name; the rules they stand above go to `needy`.
    fn needs(&mut self, annotations: &[Vec<Annotation>], needy: &mut BTreeSet<RuleAt>) -> Vec<(Node, (usize, Place))> {
        let mut needs = Vec::new();
        for (module, list) in annotations.iter().enumerate() {
            for annotation in list.iter().filter(|annotation| !annotation.needs.is_empty()) {
                let ast = &self.modules[module];
                let of_package = ast.package.span.line == annotation.before;
                let rules = ast.policy.iter().enumerate();
                needy.extend(
                    rules
                        .filter(|(_, rule)| of_package || rule.span().line == annotation.before)
                        .map(|(rule, _)| RuleAt { module, rule }),
                );
                for (path, place) in &annotation.needs {
                    match Node::at(path) {
                        Ok(node) => needs.push((node, (module, *place))),
                        Err(why) => self.fault_at(module, *place, why, "fields are written as `job.image.registry`"),
                    }
                }
            }
        }
        needs
    }

    fn name_rules(&mut self, annotations: &[Vec<Annotation>]) {
        for rule in &mut self.rules {
            let above = annotations[rule.at.module].iter().find(|annotation| annotation.before == rule.lines.0);
            if let Some(annotation) = above {
                rule.name.clone_from(&annotation.name);
                rule.details_url.clone_from(&annotation.details_url);
            }
        }
    }

    fn exposed(&mut self, walk: &Walk<'_>) {
        if self.options.exposed.script() {
            return;
        }
        if let Some((_, (module, place))) =
            walk.reads.iter().find(|(node, _)| is_at_or_below(node.path(), "job.script"))
        {
            let message = "`input.job.script` is not sent to this controller, so rules that read it would never fire";
            self.fault_at(*module, *place, message, "add `expose: [script]` to the controller, or `--expose script`");
        }
    }

    fn lints(&self, walk: &Walk<'_>) -> Vec<Fault> {
        let lint = |(module, place): (usize, Place), message: String, help: &str| {
            self.files[module].source().fault(place, message).help(help)
        };
        let written =
            walk.named.iter().filter(|(node, _)| matches!(node.path(), "job.image.name" | "job.services.name"));
        let written = written.map(|(node, at)| {
            let message = format!("`input.{}` is what the job's author wrote, and may hold `$VARIABLE`s", node.path());
            lint(*at, message, "read `resolved`, or the `registry`, `repository`, `tag` and `digest` made of it")
        });
        let values = walk.reads.keys().any(|node| node.path() == "job.variables.value");
        let unsent =
            walk.keys.iter().filter(|(key, _)| values && !self.options.exposed.variable(key)).map(|(key, at)| {
                let message = format!("the value of the variable `{key}` is not sent to this controller");
                lint(*at, message, &format!("add `expose: [{key}]` to the controller; secret values are never sent"))
            });
        written.chain(unsent).collect()
    }

    /// A file that has no part in the policy is a file that somebody believes in.
    fn unused(&mut self, edges: &Edges) {
        let mut used = BTreeSet::from([self.options.package.clone()]);
        loop {
            let before = used.len();
            for module in
                self.modules.iter().filter(|module| used.contains(&names::package(module))).collect::<Vec<_>>()
            {
                let keys = names::imports(module).into_values().filter(|(path, _)| path[0] == "data");
                for (path, _) in keys {
                    let prefixes = (2..=path.len()).map(|length| path[1..length].join("."));
                    used.extend(prefixes.filter(|prefix| self.names.packages().any(|package| package == prefix)));
                }
            }
            let called = edges.iter().filter(|((package, _), _)| used.contains(package)).flat_map(|(_, on)| on);
            let called: Vec<_> = called.map(|(package, _)| package.clone()).collect();
            used.extend(called);
            if used.len() == before {
                break;
            }
        }
        for (index, module) in self.modules.iter().enumerate() {
            let package = names::package(module);
            if !used.contains(&package) {
                let own = &self.options.package;
                let message = format!("package `{package}` is no part of the policy: nothing in `{own}` imports it");
                let help =
                    format!("write `package {own}`, import it as `import data.{package}`, or move the file away");
                self.fault(index, &module.package.span, message, &help);
            }
        }
    }

    /// What the engine itself finds when it puts the files together: unsafe variables, conflicts.
    fn prepare(&mut self, data: Option<&serde_json::Value>) {
        let prepared = super::replica::engine_of(self.files, data).and_then(|mut engine| {
            let entry = format!("data.{}.deny", self.options.package);
            engine.compile_with_entrypoint(&entry.as_str().into()).map(drop).map_err(|error| error.to_string())
        });
        if let Err(error) = prepared {
            self.faults.push(place::fault(&error, self.files, &self.options.package));
        }
    }
}

type Edges = BTreeMap<names::RuleName, BTreeSet<names::RuleName>>;

/// Refuses test files whose rules would take the evaluation too deep; whatever else is in them shows when they run.
pub(crate) fn recursion(
    files: &[SourceFile],
    modules: &[NodeRef<Module>],
    data: Option<&serde_json::Value>,
) -> Result<(), Faults> {
    let names = Names::gather(modules);
    let mut walk = Walk::new(files, modules, &names, data);
    walk.run();
    Faults::collect(too_deep(files, modules, &walk.edges)).map_or(Ok(()), Err)
}

fn too_deep(files: &[SourceFile], modules: &[NodeRef<Module>], edges: &Edges) -> Vec<Fault> {
    let mut faults = Vec::new();
    for trouble in graph::check(edges) {
        let (package, name) = &trouble.rule;
        for (module, file) in modules.iter().zip(files).filter(|(module, _)| names::package(module) == *package) {
            if let Some(rule) = module.policy.iter().find(|rule| names::rule_name(rule) == *name) {
                let fault = file.source().fault(walk::place(rule.span()), trouble.message.clone());
                faults.push(fault.help(trouble.help));
                break;
            }
        }
    }
    faults
}

fn last_line(span: &Span) -> u32 {
    span.line + span.text().trim_end().matches('\n').count() as u32
}
