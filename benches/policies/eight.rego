package jobgate

registries := {"registry.acme.example", "docker.io"}

deny contains {"message": sprintf("%s is not from our registries", [image.name]), "rule": "registry"} if {
	some image in images
	not image.registry in registries
}

deny contains {"message": sprintf("%s is not pinned by a digest", [image.name]), "rule": "pinned"} if {
	input.job.protected
	some image in images
	not startswith(image.digest, "sha256:")
}

deny contains {"message": sprintf("%s: `latest` is whatever it is today", [image.name]), "rule": "latest"} if {
	some image in images
	image.tag == "latest"
}

deny contains {"message": "the tag `gpu` is for acme/ml", "rule": "gpu"} if {
	"gpu" in input.job.tags
	not startswith(input.project.path, "acme/ml/")
}

deny contains {"message": "production only from protected refs", "rule": "production"} if {
	glob.match("production*", ["/"], input.job.environment)
	not input.job.protected
}

deny contains {"message": sprintf("stage %s is reserved", [input.job.stage]), "rule": "stages"} if {
	input.job.stage in {"release", "deploy"}
}

deny contains {"message": "DOCKER_* and LD_PRELOAD may not be set", "rule": "variables"} if {
	some variable in input.job.variables
	strings.any_prefix_match(variable.key, {"DOCKER_", "LD_PRELOAD"})
}

deny contains {"message": sprintf("branch name %s", [input.job.ref]), "rule": "branches"} if {
	input.job.ref_type == "branch"
	not allowed_branch
}

allowed_branch if input.job.ref == "main"

allowed_branch if glob.match("release/*", ["/"], input.job.ref)

allowed_branch if glob.match("feature/*", ["/"], input.job.ref)

images contains input.job.image

images contains service if some service in input.job.services
