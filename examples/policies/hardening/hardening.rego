# No docker-in-docker (it needs a privileged runner, and who has that has the machine), and no root by choice.
# Build images with BuildKit rootless, Buildah or Kaniko instead. Try it: jobgate policy test examples/policies/hardening
package jobgate

# METADATA
# title: no-docker-in-docker
deny contains message if {
	some image in images
	docker_in_docker(image)
	message := sprintf("%s is docker-in-docker, which needs a privileged runner; build with Buildah or BuildKit", [image.resolved])
}

# METADATA
# title: resolved-service
# description: A service whose name only the runner can make out may be docker-in-docker.
deny contains message if {
	some service in input.job.services
	service.unresolved
	not docker_in_docker(service)
	message := sprintf("%s holds a variable that only the runner knows; use a public one", [service.resolved])
}

# METADATA
# title: no-root
deny contains message if {
	some image in images
	regex.match(`^(root|0+)(:|$)`, image.user)
	message := sprintf("%s is to run as %s; leave the user out or name another", [image.resolved, image.user])
}

images contains input.job.image

images contains service if some service in input.job.services

# Mirrors and own builds keep the name, with or without a registry before it.
docker_in_docker(image) if regex.match(`(^|[/:@_.-])dind([/:@_.-]|$)`, lower(image.resolved))
