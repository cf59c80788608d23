# Tests as OPA has them: `jobgate policy test` and `opa test` both run them.
package jobgate_test

import data.jobgate

alpine(tag) := {
	"name": sprintf("alpine:%s", [tag]),
	"resolved": sprintf("alpine:%s", [tag]),
	"unresolved": false,
	"registry": "docker.io",
	"repository": "library/alpine",
	"tag": tag,
}

job(image) := {"job": {"image": image, "services": [], "variables": [], "protected": false}}

test_a_version_is_admitted if count(jobgate.deny) == 0 with input as job(alpine("3.20"))

test_latest_is_rejected if count(jobgate.deny) == 1 with input as job(alpine("latest"))

test_latest_with_a_digest_is_admitted if {
	image := object.union(alpine("latest"), {"digest": "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"})
	count(jobgate.deny) == 0 with input as job(image)
}

test_a_service_counts_as_well if {
	question := {"job": {"services": [alpine("latest")], "variables": [], "protected": false}}
	count(jobgate.deny) == 1 with input as question
}

test_an_unresolved_name_is_rejected if {
	image := {"name": "$IMAGE", "resolved": "$IMAGE", "unresolved": true}
	count(jobgate.deny) == 1 with input as job(image)
}

test_protected_refs_are_asked_for_digests if {
	question := {"job": {"image": alpine("3.20"), "services": [], "variables": [], "protected": true}}
	count(jobgate.warn) == 1 with input as question
	count(jobgate.deny) == 0 with input as question
}
