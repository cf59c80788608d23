//! What is refused at load, because it would admit in silence, and what the policy reads.

use jobgate_yaml::{Fault, Faults, Place};
use regorus::{
    Engine,
    unstable::{Expr, Module, NodeRef, Rule, RuleHead, Span},
};

use super::{RegoOptions, RuleAt, SourceFile, place, rules::RuleInfo};

/// What a policy turned out to be.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) rules: Vec<RuleInfo>,
}

/// Compiles and checks a policy. Every fault at once, as far as they do not hide each other.
pub(crate) fn check(
    files: &[SourceFile],
    data: Option<&serde_json::Value>,
    options: &RegoOptions,
) -> Result<Checked, Faults> {
    let mut engine = Engine::new();
    let mut faults = Vec::new();
    for file in files {
        let name = file.path.display().to_string();
        if let Err(error) = engine.add_policy(name.clone(), file.text.to_string()) {
            faults.push(place::fault(&error.to_string(), files, &name));
        }
    }
    if let Some(faults) = Faults::collect(faults) {
        return Err(faults);
    }
    let _ = data;
    let mut checker = Checker { files, options, faults: Vec::new(), rules: Vec::new() };
    checker.structure(engine.get_modules());
    match Faults::collect(checker.faults) {
        Some(faults) => Err(faults),
        None => Ok(Checked { rules: checker.rules }),
    }
}

struct Checker<'a> {
    files: &'a [SourceFile],
    options: &'a RegoOptions,
    faults: Vec<Fault>,
    rules: Vec<RuleInfo>,
}

impl Checker<'_> {
    fn fault(&mut self, module: usize, span: &Span, message: impl Into<String>, help: &str) {
        let place = Place { line: span.line, column: span.col.max(1) };
        self.faults.push(self.files[module].source().fault(place, message).help(help));
    }

    fn structure(&mut self, modules: &[NodeRef<Module>]) {
        for (index, module) in modules.iter().enumerate() {
            if module.package.refr.span().text() != self.options.package {
                continue;
            }
            for (at, rule) in module.policy.iter().enumerate() {
                self.finding_rule(RuleAt { module: index, rule: at }, rule);
            }
        }
        if !self.rules.iter().any(|rule| rule.set == "deny") && self.faults.is_empty() {
            let package = &self.options.package;
            let fault =
                Fault::new(package.clone(), format!("no `deny` in package `{package}`: it would admit every job"));
            self.faults.push(fault.help("add a rule such as `deny contains \"why\" if { … }`"));
        }
    }

    fn finding_rule(&mut self, at: RuleAt, rule: &Rule) {
        let (refr, span) = match rule {
            Rule::Spec { head, span, .. } => match head {
                RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. } => (refr, span),
            },
            Rule::Default { refr, span, .. } => (refr, span),
        };
        let set = match root(refr) {
            "deny" => "deny",
            "warn" => "warn",
            _ => return,
        };
        let plain = matches!(refr.as_ref(), Expr::Var { .. });
        match rule {
            Rule::Spec { head: RuleHead::Set { .. }, .. } if plain => self.rules.push(RuleInfo {
                set,
                name: None,
                details_url: None,
                file: self.files[at.module].path.display().to_string(),
                lines: (span.line, span.line + span.text().matches('\n').count() as u32),
                at,
            }),
            _ => self.fault(
                at.module,
                span,
                format!("`{set}` must be a set, made by `contains` rules only"),
                &format!("write `{set} contains \"why\" if {{ … }}`"),
            ),
        }
    }
}

/// The first name of a reference.
fn root(mut expr: &NodeRef<Expr>) -> &str {
    loop {
        match expr.as_ref() {
            Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } => expr = refr,
            other => return other.span().text(),
        }
    }
}
