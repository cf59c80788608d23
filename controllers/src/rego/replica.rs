//! One engine and what is asked of it. Each evaluation thread builds its own from source: clones of one engine share
//! reference counts, and two cores then fight over them.

use std::{num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use jobgate_yaml::Source;
use regorus::{Engine, Value, utils::limits::ExecutionTimerConfig};

use super::{guard, place, rules::RuleInfo};

/// What an engine is built from.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) files: Vec<SourceFile>,
    pub(crate) data: Option<serde_json::Value>,
    /// Dotted, without `data.`.
    pub(crate) package: String,
    /// The policy has `warn` rules.
    pub(crate) warns: bool,
    /// The rules of `deny` and `warn`.
    pub(crate) rules: Vec<RuleInfo>,
    /// Digest of the sources, on every verdict.
    pub(crate) version: Arc<str>,
}

/// A file of a policy.
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    /// Where it was read from; faults name it.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) text: Arc<str>,
}

impl SourceFile {
    /// As faults quote it.
    pub(crate) fn source(&self) -> Source {
        Source::new(self.path.display().to_string(), self.text.clone())
    }
}

/// An engine of one thread.
pub(crate) struct Replica {
    engine: Engine,
    entry: String,
    warns: bool,
}

/// What `deny` and `warn` came to.
#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) deny: Value,
    pub(crate) warn: Value,
}

/// Why an evaluation came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EvalError {
    /// Its time was over.
    OutOfTime,
    /// A builtin that errs, a conflict, a recursion; for people, on one line.
    Broken(String),
}

/// Work units between looks at the clock; the cost of looking is not measurable from 64 on.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// A package of our own that asks for both sets in one evaluation.
const ENTRY_PACKAGE: &str = "__jobgate";

impl Replica {
    /// Compiles the policy. Faults of syntax were found before; an error here is a broken invariant, but still no panic.
    pub(crate) fn build(recipe: &Recipe) -> Result<Self, String> {
        let mut engine = engine_of(&recipe.files, recipe.data.as_ref())?;
        let package = &recipe.package;
        let entry = if recipe.warns {
            let text = format!(
                "package {ENTRY_PACKAGE}\n\nfindings := {{\"deny\": data.{package}.deny, \"warn\": data.{package}.warn}}\n"
            );
            engine.add_policy("<jobgate>".into(), text).map_err(|error| one_line(&error.to_string()))?;
            format!("data.{ENTRY_PACKAGE}.findings")
        } else {
            format!("data.{package}.deny")
        };
        Ok(Self { engine, entry, warns: recipe.warns })
    }

    /// Evaluates `deny` and `warn` for `input`.
    pub(crate) fn evaluate(&mut self, input: Value, limit: Duration) -> Result<Findings, EvalError> {
        self.limit(limit);
        self.engine.set_input(input);
        let result = self.engine.eval_rule(self.entry.clone()).map_err(|error| eval_error(&error.to_string()))?;
        let undefined = || EvalError::Broken("the policy has no result: `deny` is undefined".into());
        if !self.warns {
            return match result {
                deny @ Value::Set(_) => Ok(Findings { deny, warn: Value::new_set() }),
                _ => Err(undefined()),
            };
        }
        match (&result["deny"], &result["warn"]) {
            (deny @ Value::Set(_), warn @ Value::Set(_)) => Ok(Findings { deny: deny.clone(), warn: warn.clone() }),
            _ => Err(undefined()),
        }
    }

    /// What one rule of `deny` or `warn` adds by itself, for the input of the last evaluation.
    pub(crate) fn evaluate_rule(
        &mut self,
        package: &str,
        at: RuleAt,
        set: &'static str,
        limit: Duration,
    ) -> Result<Value, EvalError> {
        self.limit(limit);
        let missing = || EvalError::Broken("the policy has changed under an evaluation".into());
        let module = self.engine.get_modules().get(at.module).cloned().ok_or_else(missing)?;
        let rule = module.policy.get(at.rule).cloned().ok_or_else(missing)?;
        let data =
            self.engine.eval_rule_in_module(&module, &rule, false).map_err(|error| eval_error(&error.to_string()))?;
        let value = package.split('.').fold(&data, |value, part| &value[part]);
        Ok(value[set].clone())
    }

    /// `print` and `trace` output since the last call.
    pub(crate) fn prints(&mut self) -> Vec<String> {
        self.engine.take_prints().unwrap_or_default()
    }

    /// The engine itself, for the tools that look closer.
    pub(crate) fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The question that rules are asked about by themselves.
    pub(crate) fn set_input(&mut self, input: Value) {
        self.engine.set_input(input);
    }

    fn limit(&mut self, limit: Duration) {
        self.engine.set_execution_timer_config(timer(limit));
        guard::begin();
    }
}

/// Stops an evaluation at `limit`.
pub(crate) fn timer(limit: Duration) -> ExecutionTimerConfig {
    ExecutionTimerConfig { limit, check_interval: CHECK_INTERVAL }
}

/// Where a rule is: the module by the order of files, the rule by its order in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RuleAt {
    pub(crate) module: usize,
    pub(crate) rule: usize,
}

/// An engine with these files and data, strict, silent and guarded.
pub(crate) fn engine_of(files: &[SourceFile], data: Option<&serde_json::Value>) -> Result<Engine, String> {
    let mut engine = Engine::new();
    engine.set_strict_builtin_errors(true);
    // Else `print` writes to the program's own stderr.
    engine.set_gather_prints(true);
    guard::install(&mut engine)?;
    for file in files {
        let name = file.path.display().to_string();
        engine.add_policy(name, file.text.to_string()).map_err(|error| one_line(&error.to_string()))?;
    }
    if let Some(data) = data {
        let data = super::input::InputBuilder::unlimited(data).map_err(|error| error.to_string())?;
        engine.add_data(data).map_err(|error| one_line(&error.to_string()))?;
    }
    Ok(engine)
}

fn eval_error(text: &str) -> EvalError {
    // A limit that is met inside a function comes back as text, so the text is what tells.
    if text.contains("execution exceeded time limit (") {
        return EvalError::OutOfTime;
    }
    EvalError::Broken(one_line(text))
}

/// An error of the engine, `file:line:column: what`, instead of its drawing over several lines.
pub(crate) fn one_line(error: &str) -> String {
    match place::read(error) {
        Some(read) => format!("{}:{}:{}: {}", read.file, read.line, read.column, read.message),
        None => error.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}
