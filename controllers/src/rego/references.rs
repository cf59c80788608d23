//! What a reference means, step by step: a field of the question, a rule, a key of the data document.

use regorus::unstable::{Expr, NodeRef, Rule, RuleHead, Span};

use super::{
    fields::ROOT,
    names::{self, Data, Step},
    shape::Shape,
    walk::{Walk, place},
};

impl Walk<'_> {
    pub(super) fn reference(&mut self, expr: &NodeRef<Expr>) -> Shape {
        let reference = names::take_apart(expr);
        let Expr::Var { span, .. } = reference.base.as_ref() else {
            let base = self.expr(&reference.base);
            return self.steps(base, &reference.steps);
        };
        let name = span.text();
        if name == "_" {
            return Shape::other();
        }
        if self.is_declared(name) {
            let local = self.local(name);
            return self.steps(local, &reference.steps);
        }
        if let Some((path, _)) = self.here.imports.get(name).cloned() {
            let before = path.iter().skip(1).map(|key| Step::Key(key.clone(), span.clone()));
            let steps: Vec<_> = before.chain(reference.steps).collect();
            return match path.first().map(String::as_str) {
                Some("input") => self.steps(Shape::of(ROOT), &steps),
                _ => self.under_data(span, &steps),
            };
        }
        match name {
            "input" => self.steps(Shape::of(ROOT), &reference.steps),
            "data" => self.under_data(span, &reference.steps),
            _ if self.names.has(&self.here.package, name) => {
                let rule = (self.here.package.clone(), name.to_owned());
                let value = self.value_of(&rule);
                self.steps(value, &reference.steps)
            }
            _ => {
                let local = self.local(name);
                self.steps(local, &reference.steps)
            }
        }
    }

    fn under_data(&mut self, span: &Span, steps: &[Step]) -> Shape {
        let keys: Vec<_> = steps
            .iter()
            .map_while(|step| match step {
                Step::Key(key, _) => Some(key.as_str()),
                Step::Index(_) => None,
            })
            .collect();
        if keys.is_empty() {
            self.fault(span, "`data` as a whole is read here", "name the rule, or the key of the data document");
            return Shape::other();
        }
        match self.names.data(&keys) {
            Data::Rule(rule, taken) => {
                let value = self.value_of(&rule);
                self.steps(value, &steps[taken..])
            }
            Data::Package(package) => {
                self.fault(span, format!("the package `data.{package}` as a whole is read here"), "name a rule of it");
                Shape::other()
            }
            Data::NoRule(package, rule) => {
                self.no_rule(span, &package, &rule);
                Shape::other()
            }
            Data::Document => {
                self.in_document(&keys, span);
                self.steps(Shape::other(), &steps[keys.len()..])
            }
        }
    }

    pub(super) fn no_rule(&mut self, span: &Span, package: &str, rule: &str) {
        let near = jobgate_yaml::nearest(rule, self.names.rules(package));
        let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        self.fault(span, format!("package `{package}` has no rule `{rule}`{near}"), "");
    }

    /// A key that the data document does not have would be undefined, and a rule that reads it would never fire.
    pub(super) fn in_document(&mut self, keys: &[&str], span: &Span) {
        let Some(mut value) = self.data else {
            let message = format!("`data.{}` is no rule, and there is no data document", keys.join("."));
            self.fault(span, message, "write it into `data.json` or `data.yaml` beside the policy");
            return;
        };
        for (index, key) in keys.iter().enumerate() {
            let Some(map) = value.as_object() else { return };
            match map.get(*key) {
                Some(below) => value = below,
                None => {
                    let near = jobgate_yaml::nearest(key, map.keys().map(String::as_str));
                    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                    let path = keys[..=index].join(".");
                    let message = format!("`data.{path}` is neither a rule nor in the data document{near}");
                    self.fault(span, message, "write it into `data.json` or `data.yaml` beside the policy");
                    return;
                }
            }
        }
    }

    fn steps(&mut self, mut shape: Shape, steps: &[Step]) -> Shape {
        for step in steps {
            shape = match step {
                Step::Key(key, span) => self.key(&shape, key, span),
                Step::Index(index) => self.index(&shape, index),
            };
        }
        shape
    }

    /// A field by its name. Only when nothing the value may be has it, is it a fault.
    pub(crate) fn key(&mut self, shape: &Shape, key: &str, span: &Span) -> Shape {
        let mut found = Shape { other: shape.other, ..Shape::default() };
        let mut missing = None;
        for node in &shape.nodes {
            match node.field(key) {
                Some(field) => {
                    found.nodes.insert(field);
                    self.read(field, span);
                    self.named.entry(field).or_insert((self.here.at.module, place(span)));
                }
                None if node.is_message() => missing = Some(node.unknown(key)),
                None if node.element().is_some() => {
                    missing = Some(format!("`input.{}` is a list; take its elements with `some x in …`", node.path()));
                }
                None => missing = Some(format!("`input.{}` has no fields", node.path())),
            }
        }
        if let Some(elements) = &shape.elements {
            found.join(elements);
        }
        match missing {
            Some(message) if found == Shape::default() => self.fault(span, message, ""),
            _ => {}
        }
        found
    }

    pub(super) fn index(&mut self, shape: &Shape, index: &NodeRef<Expr>) -> Shape {
        match index.as_ref() {
            // A variable that the index itself gives values to.
            Expr::Var { span, .. } if !self.is_global(span.text()) => {
                let value = self.local(span.text());
                self.whole(&value, span);
            }
            _ => self.consume(index),
        }
        self.each(shape, index.span())
    }

    /// What iterating, or an index that is computed, gives.
    pub(crate) fn each(&mut self, shape: &Shape, span: &Span) -> Shape {
        let mut element = shape.element();
        for node in &shape.nodes {
            if let Some(below) = node.element() {
                self.read(below, span);
            } else if node.is_everything() {
                self.whole(&Shape::of(*node), span);
            } else if node.is_message() {
                self.whole(&Shape::of(*node), span);
                element.nodes.extend(node.names().filter_map(|name| node.field(name)));
            } else {
                let message = format!("`input.{}` is neither a list nor an object", node.path());
                self.fault(span, message, "");
            }
        }
        element
    }

    /// The literal an expression is: written here, or as the value of a rule that has no body.
    pub(crate) fn literal(&self, expr: &NodeRef<Expr>) -> Option<NodeRef<Expr>> {
        match expr.as_ref() {
            Expr::String { .. } | Expr::RawString { .. } | Expr::Number { .. } | Expr::Null { .. } => {
                Some(expr.clone())
            }
            Expr::UnaryExpr { expr: inner, .. } if matches!(inner.as_ref(), Expr::Number { .. }) => Some(expr.clone()),
            Expr::Array { items, .. } if items.iter().all(|item| self.literal(item).is_some()) => Some(expr.clone()),
            Expr::Var { span, .. } if !self.is_declared(span.text()) => self.constant(span.text()),
            _ => None,
        }
    }

    fn constant(&self, name: &str) -> Option<NodeRef<Expr>> {
        let mut value = None;
        for module in self.modules.iter().filter(|module| names::package(module) == self.here.package) {
            for rule in module.policy.iter().filter(|rule| names::rule_name(rule) == name) {
                match rule.as_ref() {
                    Rule::Spec { head: RuleHead::Compr { refr, assign: Some(assign), .. }, bodies, .. }
                        if bodies.is_empty() && value.is_none() && matches!(refr.as_ref(), Expr::Var { .. }) =>
                    {
                        value = Some(assign.value.clone());
                    }
                    _ => return None,
                }
            }
        }
        // One step only: a constant that names a constant is not worth following.
        value.filter(|value| !matches!(value.as_ref(), Expr::Var { .. })).and_then(|value| self.literal(&value))
    }
}
