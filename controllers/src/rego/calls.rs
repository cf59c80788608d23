//! Calls of builtins: which may be made, with what.

use regex::RegexBuilder;
use regorus::{
    Engine, Value,
    unstable::{Expr, NodeRef},
};

use super::{
    builtins::{self, RANGE_LIMIT, Use},
    names::{self, RuleName},
    shape::Shape,
    walk::Walk,
};

/// Whose function is called.
pub(crate) enum Function {
    /// The policy's own, with the number of its arguments.
    Own(RuleName, usize),
    /// By this name.
    Builtin(String),
}

/// Size of a compiled pattern beyond which the engine refuses it.
const PATTERN_LIMIT: usize = 100 << 10;

/// Widest field of a format.
const WIDTH_LIMIT: usize = 1000;

/// Farthest shift.
const SHIFT_LIMIT: i64 = 1024;

impl Walk<'_> {
    pub(crate) fn builtin(&mut self, expr: &NodeRef<Expr>, name: &str, params: &[NodeRef<Expr>]) -> Shape {
        let span = expr.span();
        let Some(may) = builtins::find(name) else {
            let own = self.own_functions();
            let known: Vec<&str> =
                builtins::names().map(|name| name as &str).chain(own.iter().map(String::as_str)).collect();
            let near = jobgate_yaml::nearest(name, known).map(|near| format!("; did you mean `{near}`?"));
            self.fault(span, format!("there is no function `{name}`{}", near.unwrap_or_default()), "");
            return Shape::other();
        };
        // `walk(x, [path, value])` is how `walk` is always written.
        let allowed = |arity: usize| params.len() == arity || (name == "walk" && params.len() == 2);
        if let Some(arity) = builtins::arity(name).filter(|arity| !allowed(*arity)) {
            let message =
                format!("`{name}` takes {arity} argument{}, not {}", if arity == 1 { "" } else { "s" }, params.len());
            let help = if params.len() == arity + 1 { "write `x := f(…)` to name what it returns" } else { "" };
            self.fault(span, message, help);
        }
        match may {
            Use::Refused(help) => self.fault(span, format!("`{name}` may not be called"), help),
            Use::Passes => return self.passes(name, params),
            Use::LiteralRange => self.literal_range(expr, name, params),
            Use::Literal(which, why) => {
                for index in which {
                    self.literal_argument(name, params, *index, why);
                }
            }
            Use::Pattern(index) => self.pattern(name, params, index),
            Use::Call => {}
        }
        for param in params {
            self.consume(param);
        }
        Shape::other()
    }

    /// What it is given may be in what it returns.
    fn passes(&mut self, name: &str, params: &[NodeRef<Expr>]) -> Shape {
        if let ("object.get", [object, path, default]) = (name, params) {
            let default = self.expr(default);
            return self.object_get(object, path).and(&default);
        }
        let mut passed = Shape::other();
        for param in params {
            let shape = self.expr(param);
            let below = shape.element();
            passed.join(&below.element());
            passed.join(&below);
            passed.join(&shape);
        }
        passed
    }

    fn object_get(&mut self, object: &NodeRef<Expr>, path: &NodeRef<Expr>) -> Shape {
        let shape = self.expr(object);
        let keys: Option<Vec<_>> = match path.as_ref() {
            Expr::Array { items, .. } => items.iter().map(|key| Some((names::literal_text(key)?, key))).collect(),
            _ => names::literal_text(path).map(|key| vec![(key, path)]),
        };
        match keys {
            Some(keys) => keys.into_iter().fold(shape, |shape, (key, at)| self.key(&shape, &key, at.span())),
            None => {
                self.consume(path);
                self.whole_of(&shape, path)
            }
        }
    }

    /// A path that is computed may lead anywhere below.
    fn whole_of(&mut self, shape: &Shape, path: &NodeRef<Expr>) -> Shape {
        let mut found = Shape::other();
        for node in shape.parts() {
            if node.is_everything() {
                let _ = self.each(&Shape::of(node), path.span());
            } else {
                found.nodes.extend(node.all());
            }
        }
        found.join(shape);
        found
    }

    fn literal_range(&mut self, expr: &NodeRef<Expr>, name: &str, params: &[NodeRef<Expr>]) {
        let numbers: Option<Vec<i64>> = params.iter().map(|param| self.number(param)).collect();
        let help = "iterate over what is there, with `some x in …`";
        let Some(numbers) = numbers else {
            self.fault(expr.span(), format!("the arguments of `{name}` must be literal whole numbers"), help);
            return;
        };
        let (from, to, step) = match numbers[..] {
            [from, to] => (from, to, 1),
            [from, to, step] if step > 0 => (from, to, step),
            _ => return self.fault(expr.span(), format!("`{name}` needs a step of 1 or more"), ""),
        };
        if from.abs_diff(to) / step.unsigned_abs() >= RANGE_LIMIT.unsigned_abs() {
            self.fault(expr.span(), format!("`{name}` gives more than {RANGE_LIMIT} elements"), help);
        }
    }

    fn number(&self, expr: &NodeRef<Expr>) -> Option<i64> {
        let literal = self.literal(expr)?;
        match literal.as_ref() {
            Expr::Number { value, .. } => value.as_i64().ok(),
            Expr::UnaryExpr { expr, .. } => match expr.as_ref() {
                Expr::Number { value, .. } => value.as_i64().ok()?.checked_neg(),
                _ => None,
            },
            _ => None,
        }
    }

    fn literal_argument(&mut self, name: &str, params: &[NodeRef<Expr>], index: usize, why: &str) {
        let Some(param) = params.get(index) else { return };
        let Some(literal) = self.literal(param) else {
            let message = format!("argument {} of `{name}` must be a literal: {why}", index + 1);
            return self.fault(param.span(), message, "write the text here, or as the value of a rule without a body");
        };
        match (name, literal.as_ref()) {
            ("sprintf", format) => {
                if let Some(wrong) = names::literal_text(format).and_then(|format| wrong_format(&format)) {
                    self.fault(param.span(), wrong, "");
                }
            }
            ("bits.lsh", _) if self.number(param).is_none_or(|shift| !(0..=SHIFT_LIMIT).contains(&shift)) => {
                self.fault(param.span(), format!("a shift must be between 0 and {SHIFT_LIMIT}"), "");
            }
            ("glob.match", pattern) if index == 0 => self.glob(param, pattern, params.get(1)),
            _ => {}
        }
    }

    /// The engine itself is asked whether it can read the glob.
    fn glob(&mut self, at: &NodeRef<Expr>, pattern: &Expr, delimiters: Option<&NodeRef<Expr>>) {
        let Some(text) = names::literal_text(pattern) else {
            return self.fault(at.span(), "a glob must be text", "");
        };
        let delimiters = delimiters.and_then(|delimiters| self.literal(delimiters));
        let delimiters = delimiters.map_or("[]".to_owned(), |literal| literal.span().text().to_owned());
        let query = format!("glob.match({}, {delimiters}, \"\")", Value::from(text));
        if Engine::new().eval_query(query, false).is_err() {
            self.fault(
                at.span(),
                "this is not a glob",
                "`*`, `**`, `?`, `[abc]` and `{a,b}` have a meaning; escape them with `\\`",
            );
        }
    }

    fn pattern(&mut self, name: &str, params: &[NodeRef<Expr>], index: usize) {
        let Some(param) = params.get(index) else { return };
        let Some(text) = self.literal(param).and_then(|literal| names::literal_text(&literal)) else {
            let message = format!(
                "the pattern of `{name}` must be a literal: what it costs and whether it compiles must be known"
            );
            let help = "write the pattern here, or as the value of a rule without a body; for plain text use `contains`, \
                        `startswith` or `endswith`";
            return self.fault(param.span(), message, help);
        };
        if let Err(error) = RegexBuilder::new(&text).size_limit(PATTERN_LIMIT).build() {
            let error = error.to_string();
            let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            let help = "look-around and back-references do not exist here; `\\\\.` in quotes or `\\.` between backquotes is a dot";
            self.fault(param.span(), format!("this pattern does not compile: {why}"), help);
        }
    }
}

/// What is wrong with a format: the engine leaves a verb out that it does not know.
fn wrong_format(format: &str) -> Option<String> {
    let mut rest = format.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            continue;
        }
        let mut width = String::new();
        while let Some(c) = rest.next_if(|c| c.is_ascii_digit() || *c == '.') {
            width.push(c);
        }
        let wide = width.trim_start_matches('.').parse::<usize>().is_ok_and(|width| width > WIDTH_LIMIT);
        if wide || width.len() > 5 {
            return Some(format!("a width of more than {WIDTH_LIMIT}"));
        }
        match rest.next() {
            Some('s' | 'v' | 'd' | 'b' | 'c' | 'o' | 'O' | 'x' | 'X' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'q') => {}
            Some('%') if width.is_empty() => {}
            Some(other) => return Some(format!("`%{width}{other}` is no verb here; use `%v`, `%s` or `%d`")),
            None => return Some("a `%` at the end of the format; write `%%` for the sign itself".into()),
        }
    }
    None
}
