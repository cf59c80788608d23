# Pinned images: no `latest`, no name that only the runner can make out, digests on protected refs.
# Digests are asked for by a warning; make the last rule a `deny` once your projects have them.
# Try it: jobgate policy test examples/policies/pinned-images
package jobgate

# METADATA
# title: no-latest
deny contains message if {
	some image in images
	image.tag == "latest"
	not image.digest
	message := sprintf("%s is whatever was pushed last; name a version", [image.resolved])
}

# METADATA
# title: resolved-name
deny contains message if {
	some image in images
	unknown(image)
	not own_registry(image)
	message := sprintf("%s holds a variable that only the runner knows; use a public one", [image.resolved])
}

# METADATA
# title: digest-on-protected-refs
warn contains message if {
	input.job.protected
	some image in images
	not unknown(image)
	not image.digest
	message := sprintf("%s on a protected ref: pin it by its digest, name@sha256:…", [image.resolved])
}

images contains input.job.image

images contains service if some service in input.job.services

unknown(image) if image.unresolved

unknown(image) if not image.repository

# The project's own registry with a tag or digest, where the job has no variable of that name that could hold something else.
own_registry(image) if {
	regex.match(`^\$(CI_REGISTRY_IMAGE|\{CI_REGISTRY_IMAGE\})(/[^$:@]+)?[:@][^$]+$`, image.resolved)
	not endswith(image.resolved, ":latest")
	not carried
}

carried if {
	some variable in input.job.variables
	variable.key == "CI_REGISTRY_IMAGE"
}
