# Image registry allowlist: jobs and their services run images of our own registries, and of those we trust.
# The list stands in data.yaml. Try it: jobgate policy test examples/policies/image-registries
package jobgate

# METADATA
# title: allowed-registry
deny contains message if {
	some image in images
	not unknown(image)
	not allowed(image)
	message := sprintf("%s is not from a registry on the list", [image.resolved])
}

# METADATA
# title: resolved-name
# description: What is not known cannot be on the list.
deny contains message if {
	some image in images
	unknown(image)
	not own_registry(image)
	message := sprintf("%s holds a variable that only the runner knows; use a public one", [image.resolved])
}

images contains input.job.image

images contains service if some service in input.job.services

unknown(image) if image.unresolved

unknown(image) if not image.repository

allowed(image) if {
	some prefix in data.registries
	name := sprintf("%s/%s", [image.registry, image.repository])
	startswith(name, sprintf("%s/", [trim_suffix(prefix, "/")]))
}

# GitLab names a project's own registry $CI_REGISTRY_IMAGE. Where a job has no such variable at all, nobody can have set it to
# something else.
own_registry(image) if {
	regex.match(`^\$(CI_REGISTRY_IMAGE|\{CI_REGISTRY_IMAGE\})[:/@][^$]+$`, image.resolved)
	not carried
}

carried if {
	some variable in input.job.variables
	variable.key == "CI_REGISTRY_IMAGE"
}
