package jobgate

deny contains {"rule": "pinned", "message": sprintf("%s is not pinned", [input.job.image.resolved])} if {
	input.job.image.tag == "latest"
}
