//! `deny` and `warn` become verdicts.

use jobgate_sdk::{FailureCause, Job};

use super::{decide, decide_on, failure, job, reason};

#[tokio::test]
async fn an_empty_deny_admits() {
    let verdict = decide("deny contains \"no\" if input.job.ref == \"other\"").await;
    assert!(verdict.is_admitted());
    assert_eq!(verdict.version().map(AsRef::as_ref), Some("v1"));
}

#[tokio::test]
async fn text_is_a_reason_and_an_object_names_its_rule() {
    assert_eq!(reason(&decide("deny contains \"no\" if input.job.ref == \"main\"").await), "no");
    let verdict = decide(
        "deny contains {\"message\": sprintf(\"not %s\", [input.job.ref]), \"rule\": \"refs\", \"details_url\": \
         \"https://acme.example\"}",
    )
    .await;
    let rejection = verdict.rejection().unwrap();
    assert_eq!(
        (rejection.reason().as_str(), rejection.rule(), rejection.details_url()),
        ("not main", Some("refs"), Some("https://acme.example"))
    );
}

#[tokio::test]
async fn all_reasons_are_shown_in_a_fixed_order() {
    let verdict = decide(
        "deny contains \"b\"\n\
         deny contains {\"message\": \"c\", \"rule\": \"r\"}\n\
         deny contains \"a\"\n\
         warn contains \"soon\"\n\
         warn contains {\"message\": \"later\", \"rule\": \"w\"}",
    )
    .await;
    assert_eq!(reason(&verdict), "a");
    assert_eq!(verdict.warnings(), ["also rejected: b", "also rejected, rule r: c", "soon", "rule w: later"]);
}

#[tokio::test]
async fn a_warning_never_binds() {
    let verdict =
        decide("deny contains \"no\" if false\nwarn contains \"old image\" if input.job.image.tag == \"latest\"").await;
    assert!(verdict.is_admitted());
    assert_eq!(verdict.warnings(), ["old image"]);
}

#[tokio::test]
async fn many_reasons_are_counted_and_a_huge_result_is_a_failure() {
    let verdict = decide("deny contains sprintf(\"%d\", [n]) if some n in numbers.range(100, 199)").await;
    assert_eq!(verdict.warnings().len(), 33);
    assert_eq!(verdict.warnings().last().unwrap(), "and 67 more");
    let verdict = decide(
        "deny contains sprintf(\"%s %d\", [concat(\",\", [\"a name that is long\" | some _ in numbers.range(1, 50)]), n]) if some n \
         in numbers.range(1, 99)",
    )
    .await;
    assert_eq!(verdict.failure().unwrap().cause(), FailureCause::Oversize);
}

#[tokio::test]
async fn an_element_without_a_message_fails() {
    for element in
        ["{\"msg\": \"no\"}", "{\"message\": \"\"}", "{\"message\": 5}", "5", "\" \"", "[\"no\"]", "null", "true"]
    {
        let verdict = decide(&format!("deny contains {element}")).await;
        assert_eq!(verdict.failure().map(jobgate_sdk::Failure::cause), Some(FailureCause::Malformed), "{element}");
        let verdict = decide(&format!("deny contains \"no\" if false\nwarn contains {element}")).await;
        assert!(verdict.failure().is_some(), "{element}");
    }
    assert!(failure(&decide("deny contains {\"msg\": \"no\"}").await).contains("has no `message`"));
    assert!(failure(&decide("deny contains {\"message\": \"no\", \"rule\": 5}").await).contains("`rule`"));
}

#[tokio::test]
async fn unknown_is_not_false() {
    let compared = "deny contains \"not protected\" if input.job.protected == false";
    let negated = "deny contains \"not known to be protected\" if not input.job.protected";
    let with = |protected| Job { protected, ..job() };
    for (protected, compares, negates) in [(Some(true), false, false), (Some(false), true, true), (None, false, true)] {
        assert_eq!(decide_on(compared, with(protected)).await.rejection().is_some(), compares, "{protected:?}");
        assert_eq!(decide_on(negated, with(protected)).await.rejection().is_some(), negates, "{protected:?}");
    }
}

mod form {
    //! The input is the JSON form of the question, exactly.

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use crate::rego::{
        input::{InputBuilder, InputError},
        tests::{job, request},
    };

    /// As the engine itself writes it.
    fn written(value: &impl serde::Serialize) -> Value {
        let built = InputBuilder::default().build(value).unwrap();
        serde_json::from_str(&built.to_string()).unwrap()
    }

    #[test]
    fn of_a_question() {
        let request = request(job());
        assert_eq!(written(&request), serde_json::to_value(&request).unwrap());
    }

    #[test]
    fn is_limited() {
        let large = "x".repeat(1 << 20);
        assert!(matches!(InputBuilder::default().build(&json!([large])), Err(InputError::TooLarge)));
        let many = vec![json!({}); 1 << 19];
        assert!(matches!(InputBuilder::default().build(&many), Err(InputError::TooLarge)));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::hash_map(".*", inner, 0..8).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn of_anything(value in any_json()) {
            prop_assert_eq!(written(&value), value);
        }

        #[test]
        fn of_any_job(name in prop::option::of(".*"), protected in any::<Option<bool>>(), id in any::<Option<i64>>(), tags in prop::option::of(prop::collection::vec(".*", 0..4))) {
            let request = request(jobgate_sdk::Job {
                name,
                protected,
                pipeline_id: id,
                tags: tags.map(|values| jobgate_sdk::Strings { values }),
                services: vec![jobgate_sdk::Service { image: job().image, alias: vec!["db".into()] }],
                ref_type: Some(1),
                ..job()
            });
            prop_assert_eq!(written(&request), serde_json::to_value(&request).unwrap());
        }
    }
}
