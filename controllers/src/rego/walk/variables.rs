//! Variables of a rule: which there are, and what they may hold.

use regorus::unstable::{AssignOp, Expr, NodeRef, Span};

use super::{super::shape::Shape, Walk, names};

impl Walk<'_> {
    pub(super) fn assign(&mut self, op: &AssignOp, lhs: &NodeRef<Expr>, rhs: &NodeRef<Expr>) {
        let right = self.expr(rhs);
        if *op == AssignOp::ColEq {
            self.declare(lhs);
            self.bind(lhs, &right);
            return;
        }
        self.compared(lhs, rhs);
        let left = self.expr(lhs);
        let is_variable =
            |side: &NodeRef<Expr>| matches!(side.as_ref(), Expr::Var { span, .. } if !self.is_global(span.text()));
        // A variable takes the value; only where neither side is one are two values compared.
        let (left_takes, right_takes) = (is_variable(lhs), is_variable(rhs));
        if left_takes || !right_takes {
            self.bind(lhs, &right);
        }
        if right_takes || !left_takes {
            self.bind(rhs, &left);
        }
    }

    /// Declares the names of a pattern as variables of the rule.
    pub(super) fn declare(&mut self, pattern: &NodeRef<Expr>) {
        match pattern.as_ref() {
            Expr::Var { span, .. } => self.declare_name(span),
            Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().for_each(|item| self.declare(item)),
            Expr::Object { fields, .. } => fields.iter().for_each(|(_, _, value)| self.declare(value)),
            _ => {}
        }
    }

    pub(super) fn declare_name(&mut self, name: &Span) {
        if matches!(name.text(), "input" | "data") {
            let message = format!("a variable called `{}` would hide the real one", name.text());
            self.fault(name, message, "call it something else");
        }
        self.declared.entry(self.here.at).or_default().insert(name.text().to_owned());
    }

    pub(in crate::rego) fn is_declared(&self, name: &str) -> bool {
        self.declared.get(&self.here.at).is_some_and(|names| names.contains(name))
    }

    /// Whether a name means something outside the rule.
    pub(in crate::rego) fn is_global(&self, name: &str) -> bool {
        !self.is_declared(name)
            && (matches!(name, "input" | "data")
                || self.here.imports.contains_key(name)
                || self.names.has(&self.here.package, name))
    }

    /// A pattern takes a value: its variables learn; whatever else is in it compares, and so reads.
    pub(super) fn bind(&mut self, pattern: &NodeRef<Expr>, value: &Shape) {
        match pattern.as_ref() {
            Expr::Var { span, .. } if !self.is_global(span.text()) => self.learn(span.text(), value),
            Expr::Array { items, .. } => {
                let element = self.each(value, pattern.span());
                items.iter().for_each(|item| self.bind(item, &element));
            }
            Expr::Object { fields, .. } => {
                for (_, key, part) in fields {
                    let below = match names::literal_text(key) {
                        Some(name) => self.key(value, &name, key.span()),
                        None => self.each(value, key.span()),
                    };
                    self.bind(part, &below);
                }
            }
            _ => {
                self.whole(value, pattern.span());
                self.consume(pattern);
            }
        }
    }

    pub(super) fn learn(&mut self, name: &str, value: &Shape) {
        if name != "_" {
            self.grown |= self.locals.entry((self.here.at, name.to_owned())).or_default().join(value);
        }
    }
}
