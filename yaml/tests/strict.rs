//! What strict reading refuses, and how it says so.

#![allow(clippy::unwrap_used, reason = "tests")]

use jobgate_yaml::{Document, Limits, Reader, Source, Value};
use proptest::prelude::*;

fn parse(text: &str) -> Result<Document, String> {
    Document::parse(&Source::new("f.yaml", text), Limits::default()).map_err(|faults| faults.to_string())
}

fn fault(text: &str) -> String {
    parse(text).unwrap_err()
}

#[test]
fn duplicate_keys_are_refused_with_their_place() {
    let message = fault("a: 1\nb: 2\na: 3\n");
    assert!(message.starts_with("f.yaml:3:1: "), "{message}");
    assert!(message.contains("duplicate"), "{message}");
}

#[test]
fn alias_bombs_deep_nesting_and_oversize_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    fault(&bomb);
    fault(&"[".repeat(20_000));
    fault(&format!("{}x", "- ".repeat(20_000)));
    let message = fault(&"x".repeat(10 << 20));
    assert!(message.contains("more than the 1048576 allowed"), "{message}");
}

#[test]
fn merge_keys_and_second_documents_are_refused() {
    fault("a: &a {x: 1}\nb: {<<: *a}\n");
    fault("a: 1\n---\nb: 2\n");
}

#[test]
fn a_scalar_is_what_yaml_1_2_says() {
    let document = parse("- yes\n- true\n- '1'\n- 1\n- 2026-12-31\n- 08:00\n- ~\n- 1.5\n").unwrap();
    let Value::List(items) = &document.root().value else { panic!() };
    let kinds: Vec<_> = items.iter().map(jobgate_yaml::Node::kind).collect();
    assert_eq!(kinds, ["text", "true or false", "text", "a number", "text", "text", "nothing", "a number"]);
}

#[test]
fn an_input_with_secrets_is_never_quoted() {
    for text in ["token: glcbt-secret\ntoken: glcbt-secret", "glcbt-secret: [", "- !!int glcbt-secret"] {
        let faults = Document::parse(&Source::secret("job", text), Limits::default()).unwrap_err();
        assert!(!faults.to_string().contains("secret"), "{faults}");
    }
}

#[test]
fn all_faults_are_found_at_once_with_a_snippet() {
    let source = Source::new("f.yaml", "nane: x\nsize: big\nflag: 1\n");
    let document = Document::parse(&source, Limits::default()).unwrap();
    let reader = Reader::new(&source);
    let mut fields = reader.fields(document.root(), "a thing").unwrap();
    fields.require("name");
    let _ = fields.take("size").and_then(|node| reader.integer(node, 1..=9));
    let _ = fields.take("flag").and_then(|node| reader.boolean(node));
    fields.finish();
    let text = reader.finish(()).unwrap_err().to_string();
    assert_eq!(
        text,
        "f.yaml:1:1: a thing needs `name`\n  1 | nane: x\n    | ^\n\
         f.yaml:1:1: unknown key `nane`; did you mean `name`?\n  1 | nane: x\n    | ^\n  \
         help: a thing has `name`, `size`, `flag`\n\
         f.yaml:2:7: expected a whole number, found text\n  2 | size: big\n    |       ^\n\
         f.yaml:3:7: expected true or false, found a number\n  3 | flag: 1\n    |       ^"
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[ -~\n&*<!|>\\[\\]{}:,'\"\u{e9}\u{1f600}-]{0,200}") {
        let _ = parse(&text);
    }
}
