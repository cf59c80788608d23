//! Follows the question through a policy: what is read, by which rules, and what cannot be known before evaluation.
//!
//! Every rule is walked again until nothing new is learnt about what variables, arguments and rules may hold; faults are
//! noted in the last round only. What is not understood counts as read, or is refused: never as harmless.

mod variables;

use std::collections::{BTreeMap, BTreeSet};

use jobgate_yaml::{Fault, Place};
use regorus::unstable::{BoolOp, Expr, Literal, Module, NodeRef, Query, Rule, RuleAssign, RuleHead, Span};

use super::{
    RuleAt, SourceFile,
    calls::Function,
    fields::{Node, ROOT},
    names::{self, Data, Names, RuleName, Step},
    shape::Shape,
};

/// What is known of a policy while it is walked, and afterwards.
pub(crate) struct Walk<'a> {
    pub(crate) files: &'a [SourceFile],
    pub(crate) modules: &'a [NodeRef<Module>],
    pub(crate) names: &'a Names,
    pub(crate) data: Option<&'a serde_json::Value>,
    /// Rules whose annotation says what they need.
    pub(crate) needy: BTreeSet<RuleAt>,
    pub(crate) faults: Vec<Fault>,
    /// What is read, and where first.
    pub(crate) reads: BTreeMap<Node, (usize, Place)>,
    /// What is read by its own name, and where; not as part of something larger.
    pub(crate) named: BTreeMap<Node, (usize, Place)>,
    /// Keys that variables are compared with.
    pub(crate) keys: BTreeMap<String, (usize, Place)>,
    pub(crate) edges: BTreeMap<RuleName, BTreeSet<RuleName>>,
    rules: BTreeMap<RuleName, Shape>,
    params: BTreeMap<(RuleName, usize), Shape>,
    locals: BTreeMap<(RuleAt, String), Shape>,
    declared: BTreeMap<RuleAt, BTreeSet<String>>,
    grown: bool,
    report: bool,
    pub(super) here: Here,
}

/// The rule being walked.
#[derive(Default)]
pub(super) struct Here {
    pub(super) at: RuleAt,
    pub(super) package: String,
    rule: RuleName,
    pub(super) imports: BTreeMap<String, (Vec<String>, Span)>,
}

/// Rounds after which a policy is too tangled to follow; real ones need three or four.
const ROUNDS: usize = 300;

const NEEDS: &str = "name the fields, or say what the rule reads in an annotation above it:\n      # METADATA\n      # \
                     custom:\n      #   needs: [job.ref, job.image]";

impl<'a> Walk<'a> {
    pub(crate) fn new(
        files: &'a [SourceFile],
        modules: &'a [NodeRef<Module>],
        names: &'a Names,
        data: Option<&'a serde_json::Value>,
    ) -> Self {
        Self {
            files,
            modules,
            names,
            data,
            needy: BTreeSet::new(),
            faults: Vec::new(),
            reads: BTreeMap::new(),
            named: BTreeMap::new(),
            keys: BTreeMap::new(),
            edges: BTreeMap::new(),
            rules: BTreeMap::new(),
            params: BTreeMap::new(),
            locals: BTreeMap::new(),
            declared: BTreeMap::new(),
            grown: false,
            report: false,
            here: Here::default(),
        }
    }

    /// Walks until nothing new is learnt, then once more to report.
    pub(crate) fn run(&mut self) {
        for _ in 0..ROUNDS {
            self.grown = false;
            self.round();
            if !self.grown {
                self.report = true;
                self.round();
                return;
            }
        }
        let name = self.files.first().map(|file| file.path.display().to_string()).unwrap_or_default();
        self.faults.push(Fault::new(name, "the rules pass the question around in more ways than can be followed"));
    }

    fn round(&mut self) {
        let modules = self.modules;
        for (index, module) in modules.iter().enumerate() {
            let package = names::package(module);
            let imports = names::imports(module);
            if self.report {
                self.imported(index, &package, &imports);
            }
            self.here.imports = imports;
            for (rule, ast) in module.policy.iter().enumerate() {
                self.here.at = RuleAt { module: index, rule };
                self.here.package.clone_from(&package);
                self.here.rule = (package.clone(), names::rule_name(ast));
                self.rule(ast);
            }
        }
    }

    /// An import must lead somewhere, even where it is not used.
    fn imported(&mut self, module: usize, package: &str, imports: &BTreeMap<String, (Vec<String>, Span)>) {
        self.here.at = RuleAt { module, rule: 0 };
        self.here.package = package.to_owned();
        for (path, span) in imports.values() {
            let keys: Vec<_> = path.iter().skip(1).map(String::as_str).collect();
            match path.first().map(String::as_str) {
                Some("input") if path.len() > 1 => {
                    if let Err(why) = Node::at(&keys.join(".")) {
                        self.fault(span, why, "");
                    }
                }
                Some("data") if keys.is_empty() => self.fault(span, "`data` as a whole is imported", "name a package"),
                Some("data") if self.names.data(&keys) == Data::Document => self.in_document(&keys, span),
                Some("data") => {
                    if let Data::NoRule(package, rule) = self.names.data(&keys) {
                        self.no_rule(span, &package, &rule);
                    }
                }
                _ => {}
            }
        }
    }

    fn rule(&mut self, rule: &Rule) {
        let (mut value, extra) = match rule {
            Rule::Default { value, .. } => (self.expr(value), 0),
            Rule::Spec { head, bodies, .. } => {
                if let RuleHead::Func { args, .. } = head {
                    self.arguments(args);
                }
                let mut value = Shape::default();
                for body in bodies {
                    self.query(&body.query);
                    if let Some(assign) = &body.assign {
                        value.join(&self.expr(&assign.value));
                    }
                }
                let (of_head, extra) = match head {
                    RuleHead::Compr { assign, .. } | RuleHead::Func { assign, .. } => {
                        (self.assigned(assign.as_ref()), 0)
                    }
                    RuleHead::Set { key: Some(key), .. } => (self.element(key), 1),
                    RuleHead::Set { key: None, .. } => (Shape::other(), 1),
                };
                (value.and(&of_head), extra)
            }
        };
        let mut depth = extra;
        for step in names::take_apart(names::head(rule)).steps {
            depth += 1;
            if let Step::Index(index) = step {
                self.consume(&index);
            }
        }
        for _ in 0..depth {
            value = Shape::many(value);
        }
        let name = self.here.rule.clone();
        self.grown |= self.rules.entry(name).or_default().join(&value);
    }

    fn arguments(&mut self, args: &[NodeRef<Expr>]) {
        for (index, arg) in args.iter().enumerate() {
            self.declare(arg);
            let given = self.params.get(&(self.here.rule.clone(), index)).cloned().unwrap_or_default();
            self.bind(arg, &given);
        }
    }

    fn assigned(&mut self, assign: Option<&RuleAssign>) -> Shape {
        match assign {
            Some(assign) => self.expr(&assign.value),
            None => Shape::other(),
        }
    }

    /// An element of a set rule. Those of `deny` and `warn` leave the policy.
    fn element(&mut self, key: &NodeRef<Expr>) -> Shape {
        if matches!(self.here.rule.1.as_str(), "deny" | "warn") {
            self.consume(key);
            return Shape::other();
        }
        self.expr(key)
    }

    fn query(&mut self, query: &Query) {
        for statement in &query.stmts {
            for with in &statement.with_mods {
                let help = "write a function that takes the value as an argument; `with` is for tests";
                self.fault(&with.span, "`with` replaces what the policy reads, so what it reads is not known", help);
            }
            match &statement.literal {
                Literal::SomeVars { vars, .. } => vars.iter().for_each(|name| self.declare_name(name)),
                Literal::SomeIn { key, value, collection, .. } => {
                    let shape = self.expr(collection);
                    let element = self.each(&shape, collection.span());
                    if let Some(key) = key {
                        self.declare(key);
                        self.bind(key, &Shape::other());
                    }
                    self.declare(value);
                    self.bind(value, &element);
                }
                Literal::Every { key, value, domain, query, .. } => {
                    let shape = self.expr(domain);
                    let element = self.each(&shape, domain.span());
                    if let Some(key) = key {
                        self.declare_name(key);
                    }
                    self.declare_name(value);
                    self.learn(value.text(), &element);
                    self.query(query);
                }
                Literal::Expr { expr, .. } => match expr.as_ref() {
                    Expr::AssignExpr { op, lhs, rhs, .. } => self.assign(op, lhs, rhs),
                    _ => self.consume(expr),
                },
                Literal::NotExpr { expr, .. } => self.consume(expr),
            }
        }
    }

    /// An expression whose value is looked at.
    pub(crate) fn consume(&mut self, expr: &NodeRef<Expr>) {
        let shape = self.expr(expr);
        self.whole(&shape, expr.span());
    }

    /// All of a value is read.
    pub(super) fn whole(&mut self, shape: &Shape, span: &Span) {
        for node in shape.parts() {
            if node.is_everything() {
                let what = if node == ROOT { "`input`".to_owned() } else { format!("`input.{}`", node.path()) };
                self.computed(span, format!("all of {what} is read here, so what the rule needs is not known"));
            } else {
                for node in node.all() {
                    self.read(node, span);
                }
            }
        }
    }

    fn computed(&mut self, span: &Span, message: String) {
        if !self.needy.contains(&self.here.at) {
            self.fault(span, message, NEEDS);
        }
    }

    pub(super) fn read(&mut self, node: Node, span: &Span) {
        if !node.is_everything() {
            self.reads.entry(node).or_insert((self.here.at.module, place(span)));
        }
    }

    /// What an expression may be. Reads what it takes to say so.
    pub(crate) fn expr(&mut self, expr: &NodeRef<Expr>) -> Shape {
        match expr.as_ref() {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => Shape::other(),
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(expr),
            Expr::Array { items, .. } | Expr::Set { items, .. } => {
                let mut elements = Shape::default();
                for item in items {
                    elements.join(&self.expr(item));
                }
                Shape::many(elements)
            }
            Expr::Object { fields, .. } => {
                let mut elements = Shape::default();
                for (_, key, value) in fields {
                    self.consume(key);
                    elements.join(&self.expr(value));
                }
                Shape::many(elements)
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                self.query(query);
                Shape::many(self.expr(term))
            }
            Expr::ObjectCompr { key, value, query, .. } => {
                self.query(query);
                self.consume(key);
                Shape::many(self.expr(value))
            }
            Expr::Call { fcn, params, .. } => self.call(expr, fcn, params),
            Expr::UnaryExpr { expr, .. } => {
                self.consume(expr);
                Shape::other()
            }
            Expr::BinExpr { lhs, rhs, .. } => self.expr(lhs).and(&self.expr(rhs)),
            Expr::ArithExpr { lhs, rhs, .. } => {
                // The difference of two sets is a part of the first.
                let left = self.expr(lhs);
                self.whole(&left, lhs.span());
                self.consume(rhs);
                left.and(&Shape::other())
            }
            Expr::BoolExpr { op, lhs, rhs, .. } => {
                if matches!(op, BoolOp::Eq | BoolOp::Ne) {
                    self.compared(lhs, rhs);
                }
                self.consume(lhs);
                self.consume(rhs);
                Shape::other()
            }
            Expr::Membership { key, value, collection, .. } => {
                if let Some(key) = key {
                    self.consume(key);
                }
                self.consume(value);
                self.consume(collection);
                Shape::other()
            }
            Expr::AssignExpr { op, lhs, rhs, .. } => {
                self.assign(op, lhs, rhs);
                Shape::other()
            }
        }
    }

    /// Notes the key a variable is looked for by.
    fn compared(&mut self, lhs: &NodeRef<Expr>, rhs: &NodeRef<Expr>) {
        for (one, other) in [(lhs, rhs), (rhs, lhs)] {
            let Some(text) = names::literal_text(one) else { continue };
            if self.expr(other).nodes.iter().any(|node| node.path() == "job.variables.key") {
                self.keys.entry(text).or_insert((self.here.at.module, place(one.span())));
            }
        }
    }

    pub(super) fn local(&self, name: &str) -> Shape {
        self.locals.get(&(self.here.at, name.to_owned())).cloned().unwrap_or_default()
    }

    pub(super) fn value_of(&mut self, rule: &RuleName) -> Shape {
        self.depends(rule.clone());
        self.rules.get(rule).cloned().unwrap_or_default()
    }

    fn depends(&mut self, on: RuleName) {
        if self.report {
            self.edges.entry(self.here.rule.clone()).or_default().insert(on);
        }
    }

    fn call(&mut self, expr: &NodeRef<Expr>, fcn: &NodeRef<Expr>, params: &[NodeRef<Expr>]) -> Shape {
        let path = names::path(fcn);
        match self.function(&path) {
            Function::Own(function, arity) => {
                if params.len() != arity {
                    let message = format!("`{}` takes {arity} arguments, not {}", path.join("."), params.len());
                    self.fault(expr.span(), message, "write `x := f(…)` to name what it returns");
                }
                for (index, param) in params.iter().enumerate() {
                    let shape = self.expr(param);
                    self.grown |= self.params.entry((function.clone(), index)).or_default().join(&shape);
                }
                self.value_of(&function)
            }
            Function::Builtin(name) => self.builtin(expr, &name, params),
        }
    }

    /// Whose function a call means; the engine looks in this order.
    fn function(&self, path: &[String]) -> Function {
        let imported = path.first().and_then(|alias| self.here.imports.get(alias));
        let full: Option<Vec<_>> = match imported {
            Some((import, _)) if import[0] == "data" => Some(import[1..].iter().chain(&path[1..]).collect()),
            _ if path.first().is_some_and(|first| first == "data") => Some(path[1..].iter().collect()),
            _ => None,
        };
        if let Some(full) = full {
            let keys: Vec<_> = full.iter().map(|key| key.as_str()).collect();
            if let Data::Rule(rule, taken) = self.names.data(&keys)
                && let (true, Some(arity)) = (taken == keys.len(), self.names.function(&rule))
            {
                return Function::Own(rule, arity);
            }
        }
        if let [name] = path {
            let own = (self.here.package.clone(), name.clone());
            if let Some(arity) = self.names.function(&own) {
                return Function::Own(own, arity);
            }
        }
        Function::Builtin(path.join("."))
    }

    pub(crate) fn own_functions(&self) -> Vec<String> {
        let package = self.here.package.as_str();
        let is_function = |rule: &&str| self.names.function(&(package.into(), (*rule).into())).is_some();
        self.names.rules(package).filter(is_function).map(Into::into).collect()
    }

    pub(crate) fn fault(&mut self, span: &Span, message: impl Into<String>, help: &str) {
        if !self.report {
            return;
        }
        let mut fault = self.files[self.here.at.module].source().fault(place(span), message);
        if !help.is_empty() {
            fault = fault.help(help);
        }
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }
}

pub(crate) fn place(span: &Span) -> Place {
    Place { line: span.line, column: span.col.max(1) }
}
