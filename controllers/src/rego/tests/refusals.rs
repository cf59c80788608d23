//! What is refused at load: each would admit in silence, or cannot be bounded. Each fault says what to write instead.

use serde_json::json;

use super::{RegoPolicy, file, load, options, refused};

/// Rules, and what the fault must say.
fn each(cases: &[(&str, &[&str])]) {
    for (rules, says) in cases {
        let faults = refused(rules);
        for part in *says {
            assert!(faults.contains(part), "{rules}\nsaid:\n{faults}\nbut not: {part}");
        }
    }
}

#[test]
fn a_policy_without_deny() {
    each(&[
        ("warn contains \"x\"", &["no `deny` in package `jobgate`", "deny contains"]),
        ("violation contains \"x\"", &["no `deny`"]),
    ]);
    let other = RegoPolicy::load(&[file("a.rego", "package main\ndeny contains \"x\"")], None, &options());
    let faults = other.unwrap_err().to_string();
    assert!(faults.contains("no `deny` in package `jobgate`") && faults.contains("`main`"), "{faults}");
}

#[test]
fn deny_and_warn_that_are_no_sets() {
    each(&[
        ("deny := {\"x\"}", &["policy.rego:3:1", "`deny` must be a set", "deny contains"]),
        ("deny if input.dry_run", &["`deny` must be a set"]),
        ("default deny := false\ndeny contains \"x\"", &["policy.rego:3:1: `deny` must be a set"]),
        ("deny[msg] if { msg := \"x\" }", &["`deny` must be a set"]),
        ("deny[\"x\"]", &["`deny` must be a set"]),
        ("deny.x contains \"y\"", &["`deny` must be a set"]),
        ("deny(x) := x", &["`deny` must be a set"]),
        ("deny contains \"x\"\nwarn := []", &["policy.rego:4:1: `warn` must be a set"]),
        ("deny contains \"x\" if false else := 5", &["else"]),
        ("deny contains \"x\" { input.dry_run }", &["policy.rego:3"]),
    ]);
}

#[test]
fn rules_that_something_else_hides() {
    let policy = [file("a.rego", "package jobgate\ndeny contains \"x\"")];
    let faults = RegoPolicy::load(&policy, Some(json!({ "jobgate": { "deny": [] } })), &options()).unwrap_err();
    assert!(faults.to_string().contains("would replace the rules"), "{faults}");
    let files = [policy[0].clone(), file("b.rego", "package jobgate.deny\nx := 1")];
    let faults = RegoPolicy::load(&files, None, &options()).unwrap_err();
    assert!(faults.to_string().contains("stand in the way"), "{faults}");
    // The engine takes a NUL for the end of the file.
    let cut = [file("a.rego", "package jobgate\ndeny contains \"x\" if false\n\0\ndeny contains \"y\"")];
    assert!(RegoPolicy::load(&cut, None, &options()).unwrap_err().to_string().contains("NUL character in line 3"));
}

#[test]
fn files_that_are_no_part_of_the_policy() {
    let policy = |main: &str| {
        let files =
            [file("a.rego", main), file("lib.rego", "package lib.images\nbad contains \"x\"\nis_bad(x) if x in bad")];
        RegoPolicy::load(&files, None, &options())
    };
    let faults = policy("package jobgate\ndeny contains \"x\"").unwrap_err().to_string();
    assert!(faults.contains("lib.rego:1:1: package `lib.images` is no part of the policy"), "{faults}");
    assert!(faults.contains("import data.lib.images"), "{faults}");
    policy("package jobgate\nimport data.lib.images\ndeny contains \"x\" if images.is_bad(input.job.ref)").unwrap();
    policy("package jobgate\ndeny contains \"x\" if input.job.ref in data.lib.images.bad").unwrap();
    let faults = policy("package jobgate\ndeny contains \"x\" if data.lib.images.bda").unwrap_err().to_string();
    assert!(faults.contains("has no rule `bda`; did you mean `bad`"), "{faults}");
}

#[test]
fn functions_that_do_not_exist_or_must_not_be_called() {
    each(&[
        (
            "deny contains \"x\" if starts_with(input.job.ref, \"x\")",
            &["no function `starts_with`; did you mean `startswith`?"],
        ),
        ("deny contains \"x\" if http.send({\"url\": \"http://x\"})", &["`http.send` may not be called", "data.json"]),
        ("deny contains \"x\" if opa.runtime().env.X", &["`opa.runtime` may not be called"]),
        ("deny contains \"x\" if time.now_ns() > 5", &["`time.now_ns` may not be called", "input.time"]),
        ("deny contains \"x\" if rand.intn(\"a\", 2) == 1", &["`rand.intn` may not be called", "input.id"]),
        ("deny contains \"x\" if uuid.rfc4122(\"a\") == 1", &["`uuid.rfc4122` may not be called"]),
        ("deny contains \"x\" if io.jwt.decode(\"a\")", &["no function `io.jwt.decode`"]),
        ("deny contains \"x\" if net.cidr_expand(\"10.0.0.0/8\")", &["`net.cidr_expand` may not be called"]),
        ("deny contains \"x\" if graph.reachable({}, {\"a\"})", &["`graph.reachable` may not be called"]),
        ("f(x) := x\ndeny contains f(1, 2)", &["`f` takes 1 arguments, not 2"]),
        ("deny contains \"x\" if count([], n)", &["`count` takes 1 argument, not 2", "x := f("]),
    ]);
}

#[test]
fn work_without_a_bound() {
    each(&[
        ("deny contains \"x\" if numbers.range(1, input.job.priority)", &["must be literal whole numbers"]),
        ("deny contains \"x\" if numbers.range(1, 5000000)", &["more than 10000 elements"]),
        ("deny contains \"x\" if numbers.range_step(1, 10, 0)", &["a step of 1 or more"]),
        ("deny contains \"x\" if sprintf(input.job.ref, [])", &["argument 1 of `sprintf` must be a literal"]),
        ("deny contains sprintf(\"%999999999d\", [1])", &["a width of more than 1000"]),
        ("deny contains sprintf(\"%t\", [true])", &["`%t` is no verb here; use `%v`"]),
        ("deny contains \"x\" if bits.lsh(1, 4000000000)", &["a shift must be between 0 and 1024"]),
        (
            "deny contains \"x\" if glob.match(input.job.ref, [], \"x\")",
            &["argument 1 of `glob.match` must be a literal"],
        ),
        ("deny contains \"x\" if glob.match(\"a[\", [], \"x\")", &["this is not a glob"]),
    ]);
}

#[test]
fn patterns_that_do_not_compile_or_are_computed() {
    each(&[
        ("deny contains \"x\" if regex.match(\"(?=a)b\", input.job.ref)", &["does not compile: look-around"]),
        ("deny contains \"x\" if regex.match(`(a)\\1`, input.job.ref)", &["does not compile: backreferences"]),
        (
            "deny contains \"x\" if regex.match(\"(\", input.job.ref)",
            &["policy.rego:3:35: this pattern does not compile"],
        ),
        (
            "deny contains \"x\" if regex.match(`(a{1000}){1000}`, input.job.ref)",
            &["does not compile", "exceeds size limit"],
        ),
        ("deny contains \"x\" if regex.match(input.job.ref, \"x\")", &["must be a literal", "startswith"]),
        ("deny contains \"x\" if regex.replace(\"x\", input.job.ref, \"\") == \"\"", &["must be a literal"]),
        ("bad := \"(\"\ndeny contains \"x\" if regex.match(bad, input.job.ref)", &["does not compile"]),
    ]);
    load("word := `^\\w+\\s$`\ndeny contains \"x\" if regex.match(word, input.job.ref)").unwrap();
}

#[test]
fn recursion_which_would_end_the_program() {
    each(&[
        ("f(x) := f(x)\ndeny contains f(1)", &["`f` depends on itself"]),
        ("f(x) := g(x)\ng(x) := f(x)\ndeny contains f(1)", &["`f` depends on itself", "`g` depends on itself"]),
        ("a if not b\nb if not a\ndeny contains \"x\" if a", &["`a` depends on itself"]),
    ]);
    let chain: String = (0..100).map(|n| format!("f{n}(x) := f{}(x)\n", n + 1)).collect();
    each(&[(&format!("{chain}f100(x) := x\ndeny contains f0(\"x\")"), &["stands on more than 32 rules"])]);
}

#[test]
fn what_is_too_deep_to_parse() {
    let nested = format!("deny contains {}1{}", "[".repeat(40), "]".repeat(40));
    let sum = format!("deny contains \"x\" if 1 < 0{}", "\n + 1".repeat(100_000));
    let signs = format!("deny contains \"x\" if 1 < {}1", "- ".repeat(400));
    each(&[
        (&nested, &["brackets more than 10 deep"]),
        (&sum, &["exceeds maximum allowed line count"]),
        (&signs, &["more than 64 operators in one expression"]),
        (&format!("deny contains \"x\" if 1 < 0{}", "\n + 1".repeat(10_000)), &["more than 64 operators"]),
        // A field that is called as a keyword does not begin a new expression.
        (
            &format!("deny contains \"x\" if 1 < 0{}", "\n + 1 + input.job.some".repeat(300)),
            &["more than 64 operators"],
        ),
    ]);
}

#[test]
fn the_deepest_policy_that_is_allowed_is_evaluated() {
    let mut sum = "1".to_owned();
    for _ in 0..9 {
        sum = format!("({sum}{})", "\n + 1".repeat(63));
    }
    let chain: String = (0..30).map(|n| format!("f{n}(x) := f{}({sum})\n", n + 1)).collect();
    let policy = load(&format!("{chain}f30(x) := x\ndeny contains \"x\" if f0(1) < 0")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(policy.decide(&super::request(super::job()))).is_admitted());
}

#[test]
fn names_that_are_not_there() {
    each(&[
        (
            "deny contains \"x\" if not alowed\nallowed if true",
            &["policy.rego:3:26: use of undefined variable `alowed`"],
        ),
        (
            "deny contains \"x\" if input.job.ref in data.banned",
            &["`data.banned` is no rule, and there is no data document"],
        ),
        ("deny contains \"x\" if data.jobgate", &["the package `data.jobgate` as a whole"]),
        ("deny contains \"x\" if data[input.job.ref]", &["`data` as a whole"]),
        ("deny contains \"x\" if some data in [1]", &["would hide the real one"]),
        ("deny contains \"x\" if input.job.ref == \"a\" with input.job.ref as \"b\"", &["`with` replaces"]),
    ]);
    let policy = [file("a.rego", "package jobgate\ndeny contains \"x\" if input.job.ref in data.baned")];
    let faults = RegoPolicy::load(&policy, Some(json!({ "banned": [] })), &options()).unwrap_err().to_string();
    assert!(faults.contains("did you mean `banned`"), "{faults}");
}

#[test]
fn all_faults_at_once_with_their_places() {
    let files = [file("a.rego", "package jobgate\ndeny contains ("), file("b.rego", "package jobgate\nx := [")];
    let faults = RegoPolicy::load(&files, None, &options()).unwrap_err();
    let places: Vec<_> = faults.iter().map(|fault| fault.source().to_owned()).collect();
    assert_eq!(places, ["a.rego", "b.rego"], "{faults}");
    let faults = refused("deny contains input.job.reff\nwarn contains time.now_ns()\nx := http.send(1)");
    assert_eq!(faults.matches("policy.rego:").count(), 3, "{faults}");
}

mod never_panics {
    use proptest::prelude::*;

    use super::*;

    const WORDS: &[&str] = &[
        "package jobgate\n",
        "deny",
        "contains",
        "if",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "\"x\"",
        ":=",
        "=",
        "==",
        "input",
        ".job",
        ".ref",
        "[_]",
        "some",
        "x",
        "in",
        "every",
        "not",
        "with",
        "as",
        "import",
        "data",
        ".lib",
        "1",
        "-",
        "+",
        "|",
        "&",
        ",",
        "\n",
        ";",
        "else",
        "default",
        "`(`",
        "regex.match",
        "# METADATA\n# title: x\n",
        "walk",
        "print",
        "null",
        "set(",
        ":",
        "#",
        "\"",
        "\\",
        "é",
        "_",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn on_words(words in prop::collection::vec(prop::sample::select(WORDS), 0..40)) {
            let text = words.join(" ");
            let _ = RegoPolicy::load(&[file("a.rego", &text)], None, &options());
            let _ = load(&format!("deny contains \"y\" if {{ {text} }}"));
        }

        #[test]
        fn on_anything(text in ".{0,80}") {
            let _ = load(&text);
        }
    }
}
