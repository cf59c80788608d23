//! Which rules there are, and what a reference in a module means.

use std::collections::BTreeMap;

use regorus::unstable::{Expr, Module, NodeRef, Rule, RuleHead, Span};

/// A rule (or function) by its package and first name.
pub(crate) type RuleName = (String, String);

/// The packages of a policy.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Package path, dotted → names of its rules, with the number of arguments when they are functions.
    packages: BTreeMap<String, BTreeMap<String, Option<usize>>>,
}

/// A step of a reference.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// `.name` or `["name"]`.
    Key(String, Span),
    /// `[anything else]`.
    Index(NodeRef<Expr>),
}

/// A reference taken apart.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(crate) base: NodeRef<Expr>,
    pub(crate) steps: Vec<Step>,
}

/// What the beginning of a reference under `data` means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Data {
    /// A rule, and the steps it took to name it.
    Rule(RuleName, usize),
    /// A package as a whole, or what holds packages.
    Package(String),
    /// A package that has no such rule.
    NoRule(String, String),
    /// The `data` document.
    Document,
}

impl Names {
    pub(crate) fn gather(modules: &[NodeRef<Module>]) -> Self {
        let mut names = Self::default();
        for module in modules {
            let rules = names.packages.entry(package(module)).or_default();
            for rule in &module.policy {
                let args = match rule.as_ref() {
                    Rule::Spec { head: RuleHead::Func { args, .. }, .. } => Some(args.len()),
                    Rule::Default { args, .. } if !args.is_empty() => Some(args.len()),
                    _ => None,
                };
                let known = rules.entry(rule_name(rule)).or_insert(args);
                *known = known.or(args);
            }
        }
        names
    }

    pub(crate) fn has(&self, package: &str, rule: &str) -> bool {
        self.packages.get(package).is_some_and(|rules| rules.contains_key(rule))
    }

    /// Arguments of a function of the policy; `None`: there is no such function.
    pub(crate) fn function(&self, (package, name): &RuleName) -> Option<usize> {
        self.packages.get(package)?.get(name).copied().flatten()
    }

    pub(crate) fn rules(&self, package: &str) -> impl Iterator<Item = &str> {
        self.packages.get(package).into_iter().flat_map(|rules| rules.keys().map(String::as_str))
    }

    pub(crate) fn packages(&self) -> impl Iterator<Item = &str> {
        self.packages.keys().map(String::as_str)
    }

    /// What `data.` followed by these names means.
    pub(crate) fn data(&self, keys: &[&str]) -> Data {
        for length in (1..=keys.len()).rev() {
            let package = keys[..length].join(".");
            let Some(rules) = self.packages.get(&package) else { continue };
            return match keys.get(length) {
                None => Data::Package(package),
                Some(name) if rules.contains_key(*name) => Data::Rule((package, (*name).to_owned()), length + 1),
                // It may still be a package below this one.
                Some(_) if self.holds_packages(keys) => Data::Package(keys.join(".")),
                Some(name) => Data::NoRule(package, (*name).to_owned()),
            };
        }
        match self.holds_packages(keys) {
            true => Data::Package(keys.join(".")),
            false => Data::Document,
        }
    }

    fn holds_packages(&self, keys: &[&str]) -> bool {
        let prefix = keys.iter().map(|key| format!("{key}.")).collect::<String>();
        self.packages.keys().any(|package| package.starts_with(&prefix))
    }
}

/// A module's package, dotted, without `data`.
pub(crate) fn package(module: &Module) -> String {
    let reference = take_apart(&module.package.refr);
    let mut path = reference.base.span().text().to_owned();
    for step in &reference.steps {
        if let Step::Key(key, _) = step {
            path.push('.');
            path.push_str(key);
        }
    }
    path
}

/// The first name of a rule's head.
pub(crate) fn rule_name(rule: &Rule) -> String {
    take_apart(head(rule)).base.span().text().to_owned()
}

/// The reference in a rule's head.
pub(crate) fn head(rule: &Rule) -> &NodeRef<Expr> {
    match rule {
        Rule::Spec { head, .. } => match head {
            RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. } => refr,
        },
        Rule::Default { refr, .. } => refr,
    }
}

/// `a.b["c"][d]` as its base and steps.
pub(crate) fn take_apart(expr: &NodeRef<Expr>) -> Reference {
    let mut base = expr.clone();
    let mut steps = Vec::new();
    loop {
        let next = match base.as_ref() {
            Expr::RefDot { refr, field, .. } => {
                steps.push(Step::Key(field.0.text().to_owned(), field.0.clone()));
                refr.clone()
            }
            Expr::RefBrack { refr, index, .. } => {
                steps.push(match literal_text(index) {
                    Some(key) => Step::Key(key, index.span().clone()),
                    None => Step::Index(index.clone()),
                });
                refr.clone()
            }
            _ => break,
        };
        base = next;
    }
    steps.reverse();
    Reference { base, steps }
}

/// The text of a literal.
pub(crate) fn literal_text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::String { value, .. } | Expr::RawString { value, .. } => value.as_string().ok().map(ToString::to_string),
        _ => None,
    }
}

/// The names of a call's function: `a.b(…)` is `[a, b]`.
pub(crate) fn path(expr: &NodeRef<Expr>) -> Vec<String> {
    let reference = take_apart(expr);
    let mut path = vec![reference.base.span().text().to_owned()];
    for step in reference.steps {
        match step {
            Step::Key(key, _) => path.push(key),
            Step::Index(_) => path.push("[]".into()),
        }
    }
    path
}

/// What a module's imports call things: alias → full path, which begins with `data` or `input`.
pub(crate) fn imports(module: &Module) -> BTreeMap<String, (Vec<String>, Span)> {
    let mut imports = BTreeMap::new();
    for import in &module.imports {
        let path = path(&import.refr);
        if !matches!(path.first().map(String::as_str), Some("data" | "input")) {
            continue;
        }
        let alias = match &import.r#as {
            Some(alias) => alias.text().to_owned(),
            None => path.last().cloned().unwrap_or_default(),
        };
        imports.insert(alias, (path, import.span.clone()));
    }
    imports
}
