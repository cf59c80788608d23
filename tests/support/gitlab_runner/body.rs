//! What it says about itself (facts 2.1).

use serde_json::{Map, Value, json};

use super::FakeRunner;

pub(super) const USER_AGENT: &str = "gitlab-runner 19.4.0 (main; go1.26.5; linux/amd64)";

/// All keys, and what the shell executor says to each.
const FEATURES: [(&str, bool); 31] = [
    ("variables", true),
    ("image", false),
    ("services", false),
    ("artifacts", true),
    ("cache", true),
    ("fallback_cache_keys", true),
    ("shared", true),
    ("upload_multiple_artifacts", true),
    ("upload_raw_artifacts", true),
    ("session", true),
    ("terminal", true),
    ("refspecs", true),
    ("masking", true),
    ("proxy", false),
    ("raw_variables", true),
    ("artifacts_exclude", true),
    ("multi_build_steps", true),
    ("trace_reset", true),
    ("trace_checksum", true),
    ("trace_size", true),
    ("vault_secrets", true),
    ("cancelable", true),
    ("return_exit_code", true),
    ("service_variables", false),
    ("service_multiple_aliases", false),
    ("image_executor_opts", false),
    ("service_executor_opts", false),
    ("cancel_gracefully", true),
    ("native_steps_integration", true),
    ("two_phase_job_commit", true),
    ("job_inputs", true),
];

impl FakeRunner {
    pub(super) fn info(&self) -> Value {
        let feature =
            |(name, on): (&str, bool)| (name.to_owned(), Value::Bool(on && !self.features_off.contains(&name)));
        let features: Map<_, _> = FEATURES.into_iter().map(feature).collect();
        json!({
            "name": "gitlab-runner", "version": "19.4.0", "revision": "d79f3e7b",
            "platform": "linux", "architecture": "amd64", "executor": "shell", "shell": "bash",
            "config": { "gpus": "" },
            "features": features,
        })
    }

    /// The body of a request for a job, on either way.
    pub(super) fn job_request(&self) -> Value {
        let mut body = json!({ "info": self.info(), "token": self.token, "system_id": self.system_id });
        if let Some(value) = self.last_update() {
            body["last_update"] = value.into();
        }
        if let Some(session) = &self.session {
            body["session"] = session.clone();
        }
        body
    }
}
