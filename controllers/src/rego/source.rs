//! A look at the text of a policy before the engine parses it: what would take its parser, or an evaluation, too deep.

use jobgate_yaml::{Fault, Place};
use regorus::unstable::{Lexer, Source, TokenKind};

use super::{SourceFile, place};

/// Brackets within each other. The parser tries several readings of each, so its work doubles with every level.
const NESTING: usize = 10;

/// Operators in one expression: each is a step down the stack.
const OPERATORS: usize = 64;

/// What is wrong with a file before it is parsed.
pub(crate) fn check(file: &SourceFile) -> Option<Fault> {
    let name = file.path.display().to_string();
    // The engine reads a NUL as the end of the file: what follows would silently be no part of the policy.
    if let Some(at) = file.text.find('\0') {
        let line = file.text[..at].matches('\n').count() as u32 + 1;
        return Some(
            Fault::new(name, format!("a NUL character in line {line}")).help("save the file as plain UTF-8 text"),
        );
    }
    let source = match Source::from_contents(name.clone(), file.text.to_string()) {
        Ok(source) => source,
        Err(error) => return Some(Fault::new(name, error.to_string())),
    };
    let mut lexer = Lexer::new(&source);
    let mut depth = Depth { operators: vec![0] };
    let mut after_dot = false;
    loop {
        let token = match lexer.next_token() {
            Ok(token) => token,
            Err(error) => return Some(place::fault(&error.to_string(), std::slice::from_ref(file), &name)),
        };
        let text = match token.0 {
            TokenKind::Eof => return None,
            // A field may be called as a keyword is.
            TokenKind::Ident if after_dot => "",
            TokenKind::String | TokenKind::RawString => "",
            _ => token.1.text(),
        };
        after_dot = text == ".";
        if let Some(message) = depth.step(text) {
            let place = Place { line: token.1.line, column: token.1.col.max(1) };
            return Some(file.source().fault(place, message).help("give the parts names: a rule or a variable each"));
        }
    }
}

/// Operators since the last separator, for each open bracket.
struct Depth {
    operators: Vec<usize>,
}

impl Depth {
    fn step(&mut self, token: &str) -> Option<String> {
        match token {
            "(" | "[" | "{" => self.operators.push(0),
            // `set(` is one token and its bracket another.
            "set(" => self.operators.push(0),
            ")" | "]" | "}" if self.operators.len() > 1 => _ = self.operators.pop(),
            "," | ";" | ":=" | "=" | "if" | "some" | "every" | "not" | "contains" => self.reset(),
            "+" | "-" | "*" | "/" | "%" | "&" | "|" | "<" | "<=" | "==" | ">=" | ">" | "!=" | "in" => self.count(),
            // The sign of a number may also be an operator.
            number if number.starts_with('-') => self.count(),
            _ => {}
        }
        if self.operators.len() > NESTING + 1 {
            return Some(format!("brackets more than {NESTING} deep"));
        }
        let most = self.operators.last().copied().unwrap_or_default();
        (most > OPERATORS).then(|| format!("more than {OPERATORS} operators in one expression"))
    }

    fn reset(&mut self) {
        if let Some(count) = self.operators.last_mut() {
            *count = 0;
        }
    }

    fn count(&mut self) {
        if let Some(count) = self.operators.last_mut() {
            *count += 1;
        }
    }
}
