//! What is known of images.

use super::*;

#[test]
fn images_are_resolved_from_what_is_certain_only() {
    let secret = json!({"key": "T", "value": "3.20-secret", "public": true, "masked": true});
    let cases: [(&str, Vec<Value>, Option<&str>); 22] = [
        ("alpine:$T", vec![public("T", "3.20")], Some("alpine:3.20")),
        ("alpine:${T}-x", vec![public("T", "3.20")], Some("alpine:3.20-x")),
        ("$I:$T", vec![public("T", "3"), public("I", "reg.example/$N"), public("N", "a/b")], Some("reg.example/a/b:3")),
        ("alpine:$T", vec![public("T", "3"), public("T", "3")], Some("alpine:3")),
        ("alpine:$T", vec![secret], None),
        ("alpine:$T", vec![json!({"key": "T", "value": "3.20-secret", "public": true, "file": true})], None),
        ("alpine:$T", vec![json!({"key": "T", "value": "3.20-secret", "public": false})], None),
        ("alpine:$T", vec![json!({"key": "T", "value": "3.20-secret"})], None),
        ("alpine:$T", vec![public("T", "3"), public("T", "4")], None),
        ("alpine:$T", vec![public("T", "3"), json!({"key": "T", "value": "3", "public": false})], None),
        ("alpine:$T", vec![], None),
        ("alpine$T", vec![], None),
        ("alpine:$T", vec![public("T", "$T")], None),
        ("alpine:$T", vec![public("T", "$U"), public("U", "x$T")], None),
        ("alpine:$T", vec![json!({"key": "T", "value": null, "public": true})], None),
        ("alpine:$T", vec![json!({"key": "T", "value": "$U", "public": true, "raw": true}), public("U", "3")], None),
        ("alpine:$$T", vec![public("T", "3")], None),
        ("alpine:${T:-3}", vec![public("T", "3")], None),
        ("alpine:${{ job.inputs.t }}", vec![], None),
        // The runner puts its own in their place.
        ("alpine:$FF_X", vec![public("FF_X", "3")], None),
        ("alpine:$CI_PROJECT_DIR", vec![public("CI_PROJECT_DIR", "3")], None),
        ("$I", vec![public("I", "")], None),
    ];
    for (name, extra, resolved) in cases {
        let mut document = gitlab();
        variables(&mut document).extend(extra.clone());
        document["gitlab"]["image"] = json!({"name": name});
        document["gitlab"]["services"] = json!([{"name": name}]);
        let job = job(&document);
        for image in [&job["image"], &job["services"][0]] {
            assert_eq!(image["name"], name);
            assert_eq!(image["unresolved"], resolved.is_none(), "{name} with {extra:?}: {image}");
            assert!(!image.to_string().contains("secret"), "{image}");
            match resolved {
                Some(resolved) => assert_eq!(image["resolved"], resolved),
                None => {
                    for part in ["registry", "repository", "tag", "digest"] {
                        assert_eq!(image.get(part), None, "{part} of {image}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_fetched_secret_replaces_the_variable_of_its_key() {
    let mut document = gitlab();
    variables(&mut document).push(public("T", "3.20"));
    document["gitlab"]["image"] = json!({"name": "alpine:$T"});
    document["gitlab"]["secrets"] = json!({"T": {
        "vault": {"server": {"auth": {"data": {"jwt": "vault-jwt-secret"}}}, "path": "p", "field": "f"}, "file": false,
        "aws_secrets_manager": null,
    }});
    let job = job(&document);
    assert_eq!(job["image"]["unresolved"], true);
    assert_eq!(job["secret_providers"], json!(["vault"]));
    assert!(!job.to_string().contains("vault-jwt"));
}

#[test]
fn nested_references_end() {
    let mut document = gitlab();
    // Each doubles the next, and the last is empty: sixteen levels would be 65,536 replacements.
    for level in 0..30 {
        let next = format!("$L{0}$L{0}$L{0}$L{0}", level + 1);
        variables(&mut document).push(public(&format!("L{level}"), &next));
    }
    document["gitlab"]["image"] = json!({"name": "alpine$L0"});
    document["gitlab"]["services"] = json!(vec![json!({"name": "alpine$L0"}); 50]);
    assert_eq!(job(&document)["services"][49]["unresolved"], true);
}

#[test]
fn options_of_an_image_are_resolved_too() {
    let mut document = gitlab();
    variables(&mut document).push(public("U", "0"));
    let options =
        |docker: Value| json!({"name": "alpine", "pull_policy": ["always"], "executor_opts": {"docker": docker}});
    document["gitlab"]["image"] = options(json!({"user": "$U", "platform": "linux/$ARCH"}));
    let image = &job(&document)["image"];
    assert_eq!(
        (&image["user"], &image["platform"], &image["unresolved"]),
        (&json!("0"), &json!("linux/$ARCH"), &json!(true))
    );
    document["gitlab"]["image"] = options(json!({"user": 1000, "platform": "linux/arm64"}));
    let image = &job(&document)["image"];
    assert_eq!((&image["user"], &image["unresolved"]), (&json!("1000"), &json!(false)));
    assert_eq!(image["pull_policy"], json!(["always"]));
    let both = json!({"docker": {"user": "1000"}, "kubernetes": {"user": 0}});
    document["gitlab"]["image"] = json!({"name": "alpine", "executor_opts": both});
    assert_eq!(rejected(&document), ViewRejection::ImageUsersDisagree);
    // A user without a name: the runner's own image, as that user.
    document["gitlab"]["image"] = json!({"name": "", "executor_opts": {"docker": {"user": "root"}}});
    assert_eq!(job(&document)["image"]["unresolved"], true);
    document["gitlab"]["image"] = json!({"name": "", "entrypoint": null});
    assert_eq!(job_of(&document).get("image"), None);
}
