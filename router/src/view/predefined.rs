//! The variables that GitLab itself sets, and that are no secrets.
//!
//! From GitLab's "Predefined CI/CD variables reference" (as of 19.x). Left out are all that carry credentials: tokens
//! (`CI_JOB_TOKEN`, `CI_JOB_JWT*`), passwords and users of registries, dependency proxy and deploy tokens, and
//! `CI_REPOSITORY_URL`; and those that the runner sets, which no document has.

/// Whether GitLab sets this variable.
pub(super) fn is_predefined(key: &str) -> bool {
    is_sent(key) || NOT_SENT.binary_search(&key).is_ok()
}

/// Whether its value goes to every controller.
pub(super) fn is_sent(key: &str) -> bool {
    jobgate_sdk::is_predefined(key)
}

/// Sorted. Names and mail addresses of people, and free text of any length: sent only to controllers that name them.
const NOT_SENT: &[&str] = &[
    "CI_COMMIT_AUTHOR",
    "CI_COMMIT_DESCRIPTION",
    "CI_COMMIT_MESSAGE",
    "CI_COMMIT_TAG_MESSAGE",
    "CI_COMMIT_TITLE",
    "CI_MERGE_REQUEST_ASSIGNEES",
    "CI_MERGE_REQUEST_DESCRIPTION",
    "CI_MERGE_REQUEST_DESCRIPTION_IS_TRUNCATED",
    "CI_MERGE_REQUEST_MILESTONE",
    "CI_MERGE_REQUEST_TITLE",
    "CI_PROJECT_DESCRIPTION",
    "CI_PROJECT_TITLE",
    "CI_RELEASE_DESCRIPTION",
    "CI_RUNNER_DESCRIPTION",
    "GITLAB_USER_EMAIL",
    "GITLAB_USER_NAME",
];

#[cfg(test)]
mod tests {
    use jobgate_sdk::PREDEFINED_VARIABLES as SENT;

    use super::*;

    #[test]
    fn the_lists_can_be_searched() {
        assert!(SENT.is_sorted() && NOT_SENT.is_sorted());
        assert!(SENT.iter().all(|key| !NOT_SENT.contains(key)));
    }

    #[test]
    fn no_credential_is_on_them() {
        for key in SENT.iter().chain(NOT_SENT) {
            let secret = ["PASSWORD", "JWT", "_TOKEN", "REPOSITORY_URL", "DEPLOY_USER", "REGISTRY_USER", "PROXY_USER"];
            let named = secret.iter().any(|word| key.contains(word));
            assert!(!named, "{key}");
        }
        assert!(!is_predefined("CI_JOB_TOKEN") && is_predefined("GITLAB_USER_EMAIL") && is_sent("CI_PIPELINE_SOURCE"));
    }
}
