//! Job documents with more in them: secrets in all places, and what is good JSON but unusual.

use serde_json::json;

use super::documents::{ALL_REASONS, JobBuilder};

impl JobBuilder {
    /// A secret in each place that can hold one. None occurs anywhere else.
    pub fn all_secrets(mut self) -> Self {
        let mut new = |place: &str| {
            let value = format!("s3cret-{place}-{}", self.id);
            self.secrets.push(value.clone());
            value
        };
        let (file, hidden, jwt, password) = (new("file"), new("hidden"), new("id-token"), new("registry"));
        let (vault, login, input, dependency) = (new("vault-jwt"), new("vault-data"), new("input"), new("dependency"));
        let masked = format!("s3cret-masked-{}", self.id);
        self.secret("DEPLOY_KEY", &masked)
            .push("variables", json!({ "key": "KUBECONFIG", "value": file, "public": true, "file": true, "masked": false }))
            .push("variables", json!({ "key": "NOT_PUBLIC", "value": hidden, "public": false, "masked": false }))
            .push("variables", json!({ "key": "VAULT_ID_TOKEN", "value": jwt, "public": false, "masked": true }))
            .push("credentials", json!({
                "type": "registry", "url": "registry.acme.example", "username": "gitlab-ci-token", "password": password,
            }))
            .push("inputs", json!({
                "key": "license", "value": { "type": "string", "content": input, "sensitive": true },
            }))
            .push("dependencies", json!({
                "id": 16, "token": dependency, "name": "build",
                "artifacts_file": { "filename": "artifacts.zip", "size": 1024 },
            }))
            .set("/secrets", json!({
                "DATABASE": {
                    "vault": {
                        "server": {
                            "url": "https://vault.acme.example", "namespace": "",
                            "auth": { "name": "jwt", "path": "jwt", "data": { "jwt": vault, "role": login } },
                        },
                        "engine": { "name": "kv-v2", "path": "kv" }, "path": "db", "field": "password",
                    },
                    "file": true,
                },
            }))
    }

    /// What this GitLab says that it knows.
    pub fn reasons(self, reasons: &[&str]) -> Self {
        self.set("/features/failure_reasons", reasons)
    }

    pub fn without_reasons(self, missing: &[&str]) -> Self {
        let left: Vec<_> = ALL_REASONS.iter().filter(|reason| !missing.contains(reason)).copied().collect();
        self.reasons(&left)
    }

    /// Keys that nobody knows yet, at several depths.
    pub fn unknown_keys(self) -> Self {
        let new = json!({ "since": "20.1", "list": [1, null, { "a": [] }] });
        self.set("/zz_new", new.clone())
            .set("/job_info/zz_new", new.clone())
            .set("/git_info/zz_new", new.clone())
            .set("/features/zz_new", new.clone())
            .set("/steps/0/zz_new", new)
    }

    /// JSON that is good and that a second writer would write otherwise: spaces, escapes, numbers beyond 64 bits, keys that
    /// look like others, and white space at the end.
    pub fn odd_encodings(mut self) -> Self {
        self.first.push_str(concat!(
            "\r\n\t \"zz_\\u0061\\/b\" : \"\\ud83d\\ude00 \\u003c\\u00e9\\u2028\" , \"zz_big\":123456789012345678901234567890,",
            "\"zz_float\" :1.0E+2,\"zz_zero\":-0.0, \"id \":0,\"job-info\":{ },\"\":[ ],"
        ));
        self.after.push_str(" \n\r\n\t  \n");
        self
    }

    /// Text before the first key, such as `"id":1,`: the document then has the key twice.
    pub fn first(mut self, text: &str) -> Self {
        self.first.push_str(text);
        self
    }

    /// Text after the last key, such as `,"id":1`.
    pub fn last(mut self, text: &str) -> Self {
        self.last.push_str(text);
        self
    }

    /// Filled up to exactly so many bytes.
    pub fn size(mut self, bytes: usize) -> Self {
        self.size = Some(bytes);
        self
    }
}
