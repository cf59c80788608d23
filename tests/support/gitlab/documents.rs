//! Job documents as GitLab hands them out (facts 3 and 6.3).

use bytes::Bytes;
use serde_json::{Value, json};

/// Failure reasons of a new GitLab, as far as the facts name them in full (5.3).
pub const ALL_REASONS: &[&str] = &[
    "unknown_failure",
    "script_failure",
    "api_failure",
    "stuck_or_timeout_failure",
    "runner_system_failure",
    "missing_dependency_failure",
    "runner_unsupported",
    "stale_schedule",
    "job_execution_timeout",
    "archived_failure",
    "unmet_prerequisites",
    "scheduler_failure",
    "data_integrity_failure",
    "forward_deployment_failure",
    "user_blocked",
    "project_deleted",
    "ci_quota_exceeded",
    "pipeline_loop_detected",
    "no_matching_runner",
    "trace_size_exceeded",
    "builds_disabled",
    "environment_creation_failure",
    "deployment_rejected",
    "failed_outdated_deployment_job",
    "job_execution_server_timeout",
    "runner_configuration_error",
    "runner_external_dependency_failure",
    "runner_interrupted",
    "runner_provisioning_timeout",
    "protected_environment_failure",
    "secrets_provider_not_found",
    "ip_restriction_failure",
    "job_router_failure",
    "job_token_expired",
];

/// A job to enqueue.
#[derive(Clone, Debug)]
pub struct JobDocument {
    pub id: u64,
    pub token: String,
    /// What a runner gets, byte for byte.
    pub bytes: Bytes,
    /// Values that nobody but the runner may see.
    pub secrets: Vec<String>,
}

/// Makes one.
#[derive(Clone, Debug)]
pub struct JobBuilder {
    pub(super) id: u64,
    token: String,
    root: Value,
    pub(super) secrets: Vec<String>,
    pub(super) first: String,
    pub(super) last: String,
    /// Behind the document.
    pub(super) after: String,
    pub(super) size: Option<usize>,
}

impl JobBuilder {
    /// A small job, with all that runners want of one.
    pub fn new(id: u64) -> Self {
        let token = format!("glcbt-64_{:020x}", u128::from(id) * 0x9e37_79b9_7f4a_7c15);
        let repository = format!("https://gitlab-ci-token:{token}@gitlab.acme.example/acme/payments/api.git");
        let root = json!({
            "id": id,
            "token": token,
            "allow_git_fetch": true,
            "job_info": {
                "id": id, "name": "unit", "stage": "test", "pipeline_id": 41562,
                "project_id": 311, "project_name": "api", "project_full_path": "acme/payments/api",
                "namespace_id": 88, "root_namespace_id": 12, "organization_id": 1, "instance_id": "4c1e7a52",
                "user_id": 41, "scoped_user_id": null, "time_in_queue_seconds": 2,
                "project_jobs_running_on_instance_runners_count": "+Inf",
            },
            "git_info": {
                "repo_url": repository, "repo_object_format": "sha1", "ref": "main", "ref_type": "branch",
                "sha": "2d6370b333e2e3e6e59127fff9ce40d939fdfd14",
                "before_sha": "0000000000000000000000000000000000000000",
                "refspecs": ["+refs/pipelines/41562:refs/pipelines/41562"], "depth": 20, "protected": true,
            },
            "runner_info": { "timeout": 3600, "runner_session_url": null },
            "inputs": [],
            "variables": [],
            "steps": [{
                "name": "script", "script": ["echo ok"], "timeout": 3600, "when": "on_success", "allow_failure": false,
            }],
            "hooks": [],
            "image": null,
            "services": [],
            "artifacts": [],
            "cache": [],
            "credentials": [],
            "dependencies": [],
            "features": { "trace_sections": true, "token_mask_prefixes": ["glpat-"], "failure_reasons": ALL_REASONS },
        });
        let (first, last, after) = Default::default();
        let secrets = vec![token.clone()];
        Self { id, token: token.clone(), root, secrets, first, last, after, size: None }
            .variable("CI_JOB_ID", &id.to_string())
            .variable("CI_PIPELINE_SOURCE", "push")
            .variable("CI_PROJECT_PATH", "acme/payments/api")
            .variable("CI_DEFAULT_BRANCH", "main")
            .variable("GITLAB_USER_LOGIN", "mira")
            .variable("GIT_STRATEGY", "none")
            .secret("CI_JOB_TOKEN", &token)
    }

    /// Any value, by JSON pointer. The place itself may be new, its parent not.
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.root.pointer_mut(parent).unwrap()[key] = value.into();
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.root.as_object_mut().unwrap().remove(key);
        self
    }

    pub(super) fn push(mut self, list: &str, value: Value) -> Self {
        self.root[list].as_array_mut().unwrap().push(value);
        self
    }

    pub fn name(self, name: &str) -> Self {
        self.set("/job_info/name", name)
    }

    /// Full path; name and clone URL follow.
    pub fn project(self, path: &str) -> Self {
        let url = format!("https://gitlab-ci-token:{}@gitlab.acme.example/{path}.git", self.token);
        let name = path.rsplit('/').next().unwrap_or(path).to_owned();
        self.set("/job_info/project_full_path", path).set("/job_info/project_name", name).set("/git_info/repo_url", url)
    }

    pub fn branch(self, name: &str, protected: bool) -> Self {
        self.set("/git_info/ref", name).set("/git_info/protected", protected)
    }

    pub fn image(self, name: &str) -> Self {
        self.set("/image", json!({ "name": name, "entrypoint": null, "ports": [], "executor_opts": {} }))
    }

    pub fn script(self, lines: &[&str]) -> Self {
        self.set("/steps/0/script", lines)
    }

    pub fn after_script(self, lines: &[&str]) -> Self {
        let step = json!({
            "name": "after_script", "script": lines, "timeout": 300, "when": "always", "allow_failure": true,
        });
        self.push("steps", step)
    }

    /// One that everybody may see.
    pub fn variable(self, key: &str, value: &str) -> Self {
        self.push("variables", json!({ "key": key, "value": value, "public": true, "masked": false }))
    }

    /// A masked one.
    pub fn secret(mut self, key: &str, value: &str) -> Self {
        self.secrets.push(value.to_owned());
        let variable =
            json!({ "key": key, "value": value, "public": false, "masked": true, "file": false, "raw": false });
        self.push("variables", variable)
    }

    pub fn artifact(self, paths: &[&str]) -> Self {
        let artifact = json!({
            "name": "", "untracked": false, "paths": paths, "when": "on_success",
            "artifact_type": "archive", "artifact_format": "zip", "expire_in": "1 week",
        });
        self.push("artifacts", artifact)
    }

    pub fn dependency(mut self, id: u64, token: &str, size: u64) -> Self {
        self.secrets.push(token.to_owned());
        let file = json!({ "filename": "artifacts.zip", "size": size });
        self.push("dependencies", json!({ "id": id, "token": token, "name": "build", "artifacts_file": file }))
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn build(self) -> JobDocument {
        let text = self.root.to_string();
        let inner = &text[1..text.len() - 1];
        let write = |padding: &str| format!("{{{}{inner}{}{padding}}}{}", self.first, self.last, self.after);
        let mut text = write("");
        if let Some(size) = self.size {
            let empty = write(",\"zz_padding\":\"\"").len();
            let fill = size.checked_sub(empty).expect("the document is larger already");
            text = write(&format!(",\"zz_padding\":\"{}\"", "x".repeat(fill)));
            assert_eq!(text.len(), size);
        }
        JobDocument { id: self.id, token: self.token, bytes: text.into(), secrets: self.secrets }
    }
}
