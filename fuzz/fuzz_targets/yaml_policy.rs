//! Any text as a YAML policy: loading it never panics or hangs; what loads decides, and explains what it decided.

#![no_main]

use futures_util::FutureExt;
use jobgate_controllers::{LoadOptions, PolicySet, RuleOutcome};
use jobgate_sdk::{Controller, testing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let options = LoadOptions { expose: vec!["script".into(), "*".into()], ..LoadOptions::default() };
    let Ok(loaded) = PolicySet::from_texts([("policy.yaml", text)], &options) else { return };
    let request = testing::request().service("$X").variable("KEY", "value").script(["curl x | sh"]).build();
    let Some(verdict) = loaded.set.admit(&request).now_or_never() else { panic!("a YAML policy made it wait") };
    let Some(explained) = loaded.set.explain(&request).now_or_never() else { panic!("explaining made it wait") };
    let rejects = explained.iter().flat_map(|policy| &policy.rules).any(|rule| rule.outcome == RuleOutcome::Rejects);
    assert_eq!(verdict.rejection().is_some(), rejects);
});
