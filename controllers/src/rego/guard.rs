//! Keeps builtins from making more than a decision can need.
//!
//! The engine looks at the clock between builtins, not in them, and no limit of its own covers memory. So whatever makes
//! text or lists is put behind a function of the same name that first counts what the call would make.

use std::cell::Cell;

use regorus::{
    Engine, Value,
    unstable::{BUILTINS, BuiltinFcn, Expr, NodeRef, Source, Span},
};

/// Bytes that the builtins of one evaluation may make, written out.
const MADE_LIMIT: usize = 32 << 20;

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(MADE_LIMIT) };
}

/// A new evaluation begins on this thread.
pub(crate) fn begin() {
    LEFT.set(MADE_LIMIT);
}

/// How much a call may make.
#[derive(Clone, Copy, Debug)]
enum Makes {
    /// At most so many times the written size of what it is given.
    Times(usize),
    /// `concat`: the parts, and the separator between each two.
    Joined,
    /// `replace` and `strings.replace_n`, which count first.
    Replaced,
    ReplacedEach,
    /// `regex.replace`: the replacement for every character at worst.
    Matched,
    /// As `Times(1)`; and what the engine leaves undefined is an error.
    Slice,
    /// `object.subset`, where an empty list makes the engine panic.
    Subset,
}

use Makes::{Joined, Matched, Replaced, ReplacedEach, Slice, Subset, Times};

/// What any value costs beside its text.
const OVERHEAD: usize = 16;

/// Text in pieces costs more than text; at worst, character by character, some five times this.
const PIECES: usize = 8;

const GUARDED: &[(&str, Makes)] = &[
    ("array.concat", Times(1)),
    ("array.reverse", Times(1)),
    ("array.slice", Slice),
    ("base64.decode", Times(1)),
    ("base64.encode", Times(2)),
    ("base64url.decode", Times(1)),
    ("base64url.encode", Times(2)),
    ("base64url.encode_no_pad", Times(2)),
    ("concat", Joined),
    ("glob.quote_meta", Times(2)),
    ("hex.decode", Times(1)),
    ("hex.encode", Times(2)),
    ("indexof_n", Times(PIECES)),
    ("intersection", Times(1)),
    ("json.filter", Times(1)),
    ("json.marshal", Times(6)),
    ("json.marshal_with_options", Times(PIECES)),
    ("json.remove", Times(1)),
    ("json.unmarshal", Times(PIECES)),
    ("lower", Times(3)),
    ("object.filter", Times(1)),
    ("object.keys", Times(1)),
    ("object.remove", Times(1)),
    ("object.subset", Subset),
    ("object.union", Times(1)),
    ("object.union_n", Times(1)),
    ("regex.find_all_string_submatch_n", Times(10 * PIECES)),
    ("regex.find_n", Times(PIECES)),
    ("regex.replace", Matched),
    ("regex.split", Times(PIECES)),
    ("replace", Replaced),
    ("sort", Times(1)),
    ("split", Times(PIECES)),
    ("sprintf", Times(6)),
    ("strings.replace_n", ReplacedEach),
    ("strings.reverse", Times(1)),
    ("substring", Times(1)),
    ("trim", Times(1)),
    ("trim_left", Times(1)),
    ("trim_prefix", Times(1)),
    ("trim_right", Times(1)),
    ("trim_space", Times(1)),
    ("trim_suffix", Times(1)),
    ("union", Times(1)),
    ("upper", Times(3)),
];

/// Puts the guarded builtins before the engine's own.
pub(crate) fn install(engine: &mut Engine) -> Result<(), String> {
    let at = nowhere()?;
    for (name, makes) in GUARDED {
        let (function, arity) = *BUILTINS.get(name).ok_or_else(|| format!("the engine has no `{name}`"))?;
        let param = NodeRef::new(Expr::Null { span: at.clone(), value: Value::Null, eidx: 0 });
        let call = Call { name, function: (function, arity), params: vec![param; usize::from(arity)], at: at.clone() };
        let guarded = move |args: Vec<Value>| Ok(call.guarded(*makes, &args).map_err(std::io::Error::other)?);
        engine.add_extension((*name).to_owned(), arity, Box::new(guarded)).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// A place for the engine's messages; the caller of the guarded function knows the real one.
fn nowhere() -> Result<Span, String> {
    let source = Source::from_contents("builtin".into(), "\n".into()).map_err(|error| error.to_string())?;
    Ok(Span { source, line: 1, col: 1, start: 0, end: 0 })
}

/// One builtin of the engine.
#[derive(Clone)]
struct Call {
    name: &'static str,
    function: BuiltinFcn,
    params: Vec<NodeRef<Expr>>,
    at: Span,
}

impl Call {
    fn guarded(&self, makes: Makes, args: &[Value]) -> Result<Value, String> {
        let mut left = LEFT.get();
        let within = match (makes, args) {
            (Times(factor), _) => charge_all(args, factor, &mut left),
            (Slice | Subset, _) => charge_all(args, 1, &mut left),
            (Joined, [separator, parts]) => {
                let between = size(separator, left).saturating_mul(length(parts));
                charge_all(args, 1, &mut left) && take(between, &mut left)
            }
            (Replaced, [Value::String(text), Value::String(old), Value::String(new)]) => {
                take(replaced(text, old, new), &mut left)
            }
            (ReplacedEach, [Value::Object(pairs), Value::String(text)]) => {
                let mut text = text.to_string();
                for (old, new) in pairs.iter_sorted() {
                    let (Value::String(old), Value::String(new)) = (old, new) else { return self.call(args) };
                    if !take(replaced(&text, old, new), &mut left) {
                        return Err(too_much(self.name));
                    }
                    text = text.replace(old.as_ref(), new);
                }
                LEFT.set(left);
                return Ok(text.into());
            }
            (Matched, [Value::String(text), _, Value::String(new)]) => {
                take((text.len() + 1).saturating_mul(64 + 4 * new.len()), &mut left)
            }
            // Wrong types: the engine says so.
            _ => true,
        };
        if !within {
            return Err(too_much(self.name));
        }
        LEFT.set(left);
        if let (Subset, [Value::Array(_), Value::Array(part)]) = (makes, args)
            && part.is_empty()
        {
            return Ok(true.into());
        }
        match self.call(args)? {
            Value::Undefined if matches!(makes, Slice) => Err(format!("`{}` needs whole numbers", self.name)),
            value => Ok(value),
        }
    }

    fn call(&self, args: &[Value]) -> Result<Value, String> {
        let (function, _) = self.function;
        function(&self.at, &self.params, args, true).map_err(|error| {
            let text = error.to_string();
            super::place::read(&text).map(|read| read.message).unwrap_or(text)
        })
    }
}

fn too_much(name: &str) -> String {
    format!("`{name}` would make more than one evaluation may, {} MiB", MADE_LIMIT >> 20)
}

fn take(bytes: usize, left: &mut usize) -> bool {
    match left.checked_sub(bytes) {
        Some(rest) => {
            *left = rest;
            true
        }
        None => false,
    }
}

fn charge_all(args: &[Value], factor: usize, left: &mut usize) -> bool {
    let mut reduced = *left / factor;
    let before = reduced;
    args.iter().all(|arg| charge(arg, &mut reduced)) && take((before - reduced) * factor, left)
}

/// Written size of a value, as far as it is at most `limit`.
fn size(value: &Value, limit: usize) -> usize {
    let mut left = limit;
    if charge(value, &mut left) { limit - left } else { usize::MAX }
}

fn length(value: &Value) -> usize {
    match value {
        Value::Array(list) => list.len(),
        Value::Set(list) => list.len(),
        _ => 1,
    }
}

/// Bytes of `text` with every `old` become `new`.
fn replaced(text: &str, old: &str, new: &str) -> usize {
    let times = if old.is_empty() { text.len() + 1 } else { text.matches(old).count() };
    text.len().saturating_add(times.saturating_mul(new.len()))
}

/// Takes the written size of `value` from `left`. False, without looking further, when it is larger: values share their
/// parts, and may be far larger written out than they are in memory.
pub(crate) fn charge(value: &Value, left: &mut usize) -> bool {
    let text = if let Value::String(text) = value { text.len() } else { 0 };
    if !take(text + OVERHEAD, left) {
        return false;
    }
    match value {
        Value::Array(list) => list.iter().all(|element| charge(element, left)),
        Value::Set(list) => list.iter().all(|element| charge(element, left)),
        Value::Object(map) => map.iter().all(|(key, value)| charge(key, left) && charge(value, left)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rego::builtins::{Use, find};

    /// Every allowed builtin, with arguments of all the wrong types: an error or a value, but neither undefined nor a panic.
    #[test]
    fn no_builtin_answers_nonsense_with_silence() {
        let odd: Vec<Value> = vec![
            Value::Null,
            true.into(),
            5_u64.into(),
            1.5.into(),
            (-1_i64).into(),
            "a".into(),
            vec![Value::from("a")].into(),
            vec![Value::from(1_u64)].into(),
            Value::new_array(),
            Value::new_set(),
            Value::new_object(),
        ];
        let at = nowhere().unwrap();
        for (name, function) in BUILTINS.iter() {
            let arity = usize::from(function.1);
            // `walk` is a loop to the engine; `max` and `min` of nothing are undefined by definition.
            let allowed = !matches!(find(name), Some(Use::Refused(_)) | None);
            if !allowed || matches!(*name, "walk" | "max" | "min") {
                continue;
            }
            let param = NodeRef::new(Expr::Null { span: at.clone(), value: Value::Null, eidx: 0 });
            let call = Call { name, function: *function, params: vec![param; arity], at: at.clone() };
            let makes = GUARDED.iter().find(|(guarded, _)| guarded == name).map(|(_, makes)| *makes);
            for mut choice in 0..odd.len().pow(arity as u32) {
                let mut args = Vec::new();
                for _ in 0..arity {
                    args.push(odd[choice % odd.len()].clone());
                    choice /= odd.len();
                }
                begin();
                let result = match makes {
                    Some(makes) => call.guarded(makes, &args),
                    None => call.call(&args),
                };
                assert_ne!(result, Ok(Value::Undefined), "{name}({args:?})");
            }
        }
    }

    #[test]
    fn what_is_shared_counts_as_often_as_it_is_written() {
        let mut value = Value::from("x".repeat(1000));
        for _ in 0..60 {
            value = vec![value.clone(), value].into();
        }
        assert!(!charge(&value, &mut MADE_LIMIT.clone()));
    }
}
