//! How a verdict came about: each rule of `deny` and `warn` asked by itself, with the lines it reached and the values it saw.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jobgate_sdk::AdmissionRequest;
use regorus::{
    Value,
    unstable::{Expr, Literal, NodeRef, Query, Rule, RuleHead},
};

use super::{
    decide::{self, Finding},
    input::InputBuilder,
    names::{self, Step},
    replica::{EvalError, Recipe, Replica},
    rules::RuleInfo,
};
use crate::{RuleExplained, RuleOutcome};

/// What the rules of a policy made of a job.
#[derive(Clone, Debug)]
pub(crate) struct Explanation {
    /// Each rule of `deny` and `warn`, in the order of files and lines.
    pub(crate) rules: Vec<RuleTrace>,
    /// What `print` said, with its place.
    pub(crate) prints: Vec<String>,
}

/// What one rule made of a job.
#[derive(Clone, Debug)]
pub(crate) struct RuleTrace {
    pub(crate) rule: RuleInfo,
    pub(crate) came_to: CameTo,
    /// Fields of the question that the rule names, and their values as JSON; `None` is unknown.
    pub(crate) values: BTreeMap<String, Option<String>>,
}

/// What a rule came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CameTo {
    /// It added these elements.
    Fired(Vec<Finding>),
    /// It added nothing; the last line that was reached, and what it says.
    Silent { stopped_at: Option<(u32, String)> },
    /// It could not be evaluated.
    Failed(String),
}

/// Longest value that is shown.
const SHOWN: usize = 200;

impl RuleTrace {
    pub(crate) fn explained(&self) -> RuleExplained {
        RuleExplained {
            rule: self.rule.label(),
            file: self.rule.file.clone(),
            line: self.rule.lines.0,
            outcome: match (&self.came_to, self.rule.set) {
                (CameTo::Failed(_), _) => RuleOutcome::Fails,
                (CameTo::Silent { .. }, _) => RuleOutcome::Holds,
                (CameTo::Fired(_), "warn") => RuleOutcome::Warns,
                (CameTo::Fired(_), _) => RuleOutcome::Rejects,
            },
            detail: self.detail(),
        }
    }

    /// In one line: what it came to and with which values.
    pub(crate) fn detail(&self) -> String {
        let values = self.values.iter().map(|(path, value)| match value {
            Some(value) => format!("{path} is {value}"),
            None => format!("{path} is unknown"),
        });
        let values = values.collect::<Vec<_>>().join(", ");
        let values = if values.is_empty() { values } else { format!(" ({values})") };
        match &self.came_to {
            CameTo::Fired(findings) => {
                let messages: Vec<_> = findings.iter().map(|finding| finding.message.as_str()).collect();
                format!("{}{values}", messages.join("; "))
            }
            CameTo::Silent { stopped_at: Some((line, text)) } => format!("line {line} did not hold: `{text}`{values}"),
            CameTo::Silent { stopped_at: None } => format!("it did not hold{values}"),
            CameTo::Failed(why) => format!("{why}{values}"),
        }
    }
}

/// Asks every rule by itself. Each gets the whole budget: this is for people, not for decisions.
pub(crate) fn explain(
    policy: &Arc<Recipe>,
    budget: Duration,
    request: &AdmissionRequest,
) -> Result<Explanation, String> {
    let input = InputBuilder::default().build(request).map_err(|error| error.to_string())?;
    let mut replica = Replica::build(policy)?;
    replica.set_input(input.clone());
    replica.engine().set_enable_coverage(true);
    let mut rules = Vec::new();
    let mut prints = Vec::new();
    for rule in &policy.rules {
        replica.engine().clear_coverage_data();
        let result = replica.evaluate_rule(&policy.package, rule.at, rule.set, budget);
        prints.extend(replica.prints());
        let reached = reached(&mut replica, rule);
        let ast = replica
            .engine()
            .get_modules()
            .get(rule.at.module)
            .and_then(|module| module.policy.get(rule.at.rule))
            .cloned();
        let values = ast.as_ref().map(|ast| values(ast, &input)).unwrap_or_default();
        let stopped = || ast.as_ref().and_then(|ast| stopped_at(ast, &reached));
        let came_to = came_to(rule, result, stopped);
        rules.push(RuleTrace { rule: rule.clone(), came_to, values });
    }
    prints.dedup();
    Ok(Explanation { rules, prints })
}

fn came_to(
    rule: &RuleInfo,
    result: Result<Value, EvalError>,
    stopped_at: impl FnOnce() -> Option<(u32, String)>,
) -> CameTo {
    let value = match result {
        Ok(Value::Undefined) => Value::new_set(),
        Ok(value) => value,
        Err(EvalError::OutOfTime) => return CameTo::Failed("it was stopped at its budget".into()),
        Err(EvalError::Broken(why)) => return CameTo::Failed(why),
    };
    match decide::elements(rule.set, &value) {
        Err(failed) => CameTo::Failed(failed.message),
        Ok(elements) if elements.is_empty() => CameTo::Silent { stopped_at: stopped_at() },
        Ok(elements) => CameTo::Fired(
            elements
                .into_iter()
                .map(|(_, mut finding)| {
                    decide::adopt(&mut finding, rule);
                    finding
                })
                .collect(),
        ),
    }
}

/// The lines of a rule that its evaluation reached.
fn reached(replica: &mut Replica, rule: &RuleInfo) -> BTreeSet<u32> {
    let report = replica.engine().get_coverage_report();
    let files = report.map(|report| report.files).unwrap_or_default();
    let covered = files.into_iter().filter(|file| file.path == rule.file).flat_map(|file| file.covered);
    covered.filter(|line| (rule.lines.0..=rule.lines.1).contains(line)).collect()
}

/// The last statement of the body that was reached, where the rule fell silent.
fn stopped_at(rule: &Rule, reached: &BTreeSet<u32>) -> Option<(u32, String)> {
    let Rule::Spec { bodies, .. } = rule else { return None };
    let statements = bodies.iter().flat_map(|body| &body.query.stmts);
    let last = statements.rev().find(|statement| reached.contains(&statement.span.line))?;
    let line = last.span.line;
    Some((line, last.span.source.line(line.saturating_sub(1)).trim().to_owned()))
}

/// The fields of the question that a rule names, with their values.
fn values(rule: &Rule, input: &Value) -> BTreeMap<String, Option<String>> {
    let mut values = BTreeMap::new();
    each_reference(rule, &mut |path| {
        let value = path.iter().fold(input, |value, key| &value[key.as_str()]);
        let shown = (*value != Value::Undefined).then(|| shorten(&value.to_string()));
        values.insert(format!("input.{}", path.join(".")), shown);
    });
    values
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Calls `found` with the path of every `input.a.b` in a rule, as far as its keys are written out.
fn each_reference(rule: &Rule, found: &mut impl FnMut(&[String])) {
    let Rule::Spec { head, bodies, .. } = rule else { return };
    if let RuleHead::Set { key: Some(key), .. } = head {
        in_expr(key, found);
    }
    for body in bodies {
        in_query(&body.query, found);
    }
}

fn in_query(query: &Query, found: &mut impl FnMut(&[String])) {
    for statement in &query.stmts {
        match &statement.literal {
            Literal::SomeVars { .. } => {}
            Literal::SomeIn { value, collection, .. } => {
                in_expr(value, found);
                in_expr(collection, found);
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => in_expr(expr, found),
            Literal::Every { domain, query, .. } => {
                in_expr(domain, found);
                in_query(query, found);
            }
        }
    }
}

fn in_expr(expr: &NodeRef<Expr>, found: &mut impl FnMut(&[String])) {
    match expr.as_ref() {
        Expr::RefDot { .. } | Expr::RefBrack { .. } => {
            let reference = names::take_apart(expr);
            if reference.base.span().text() == "input" {
                let keys = reference.steps.iter().map_while(|step| match step {
                    Step::Key(key, _) => Some(key.clone()),
                    Step::Index(_) => None,
                });
                let keys: Vec<_> = keys.collect();
                if !keys.is_empty() {
                    found(&keys);
                }
            } else {
                in_expr(&reference.base, found);
            }
            for step in &reference.steps {
                if let Step::Index(index) = step {
                    in_expr(index, found);
                }
            }
        }
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().for_each(|item| in_expr(item, found)),
        Expr::Object { fields, .. } => {
            for (_, key, value) in fields {
                in_expr(key, found);
                in_expr(value, found);
            }
        }
        Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
            in_expr(term, found);
            in_query(query, found);
        }
        Expr::ObjectCompr { key, value, query, .. } => {
            in_expr(key, found);
            in_expr(value, found);
            in_query(query, found);
        }
        Expr::Call { params, .. } => params.iter().for_each(|param| in_expr(param, found)),
        Expr::UnaryExpr { expr, .. } => in_expr(expr, found),
        Expr::BinExpr { lhs, rhs, .. }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs, .. }
        | Expr::AssignExpr { lhs, rhs, .. } => {
            in_expr(lhs, found);
            in_expr(rhs, found);
        }
        Expr::Membership { key, value, collection, .. } => {
            key.iter().chain([value, collection]).for_each(|part| in_expr(part, found));
        }
        _ => {}
    }
}
