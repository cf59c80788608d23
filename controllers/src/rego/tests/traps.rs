//! Ways in which a policy admits in silence, or hurts its host; each was met in the engine.

use super::{decide, failure};

#[tokio::test]
async fn what_the_virtual_machine_calls_undefined_fails_here() {
    // A builtin that gets a wrong type.
    let verdict = decide("deny contains \"no\" if startswith(input.project.id, \"7\")").await;
    assert!(failure(&verdict).starts_with("policy.rego:3:"), "{verdict:?}");
    // A division by zero.
    let verdict = decide("deny contains \"no\" if 1 / (input.project.id - 7) > 1").await;
    assert!(failure(&verdict).contains("divide by zero"), "{verdict:?}");
    // Two complete rules that disagree.
    let verdict = decide("level := 1\nlevel := 2 if input.job.protected\ndeny contains \"no\" if level == 1").await;
    assert!(failure(&verdict).contains("conflicts"), "{verdict:?}");
    // Inside a function, and behind `not`.
    let verdict = decide("bad(x) if startswith(x, \"7\")\ndeny contains \"no\" if not bad(input.project.id)").await;
    assert!(verdict.failure().is_some(), "{verdict:?}");
}
