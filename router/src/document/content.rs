use std::fmt;

use jobgate_sdk::{RefType, ScriptLine};

use super::{cursor::Cursor, gitlab, native};
use crate::ProjectPath;

/// Tags on one job; GitLab's own limit.
const TAGS_MAX: usize = 49;

/// What a document says, whichever shape it has; secrets included.
pub(crate) struct Content {
    pub(crate) origin: Origin,
    pub(crate) project: ProjectPath,
    pub(crate) project_id: Option<i64>,
    /// The path in the repository's URL, without `.git`.
    pub(crate) repo_path: Option<String>,
    pub(crate) user_id: Option<i64>,
    /// The user's id as it stands beside GitLab's response.
    pub(crate) stated_user_id: Option<i64>,
    pub(crate) user_login: Option<String>,
    pub(crate) source_id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) stage: Option<String>,
    pub(crate) pipeline_id: Option<i64>,
    pub(crate) source: Option<String>,
    pub(crate) ref_name: Option<String>,
    pub(crate) ref_type: Option<RefType>,
    pub(crate) protected: Option<bool>,
    pub(crate) sha: Option<String>,
    pub(crate) environment: Option<String>,
    pub(crate) tags: Option<Vec<String>>,
    pub(crate) image: Option<ImageSpec>,
    pub(crate) services: Vec<ServiceSpec>,
    /// `None`: the document has no such list.
    pub(crate) variables: Option<Vec<VariableSpec>>,
    pub(crate) timeout_seconds: Option<i64>,
    pub(crate) artifact_paths: Vec<String>,
    pub(crate) cache_keys: Vec<String>,
    pub(crate) secret_providers: Vec<String>,
    /// Variables that the runner fetches from a secrets provider; they replace those of the same key.
    pub(crate) secret_keys: Vec<String>,
    pub(crate) script: Vec<ScriptLine>,
    pub(crate) retry_on_lost: bool,
    /// Tokens and passwords that GitLab made for this job.
    pub(crate) credentials: Vec<String>,
}

/// Which of the two shapes a document has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    GitLab,
    Native,
}

/// An image as the job names it.
#[derive(Default)]
pub(crate) struct ImageSpec {
    pub(crate) name: String,
    pub(crate) pull_policy: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) command: Vec<String>,
    /// One for each executor that has its own.
    pub(crate) users: Vec<String>,
    pub(crate) platform: Option<String>,
}

pub(crate) struct ServiceSpec {
    pub(crate) image: ImageSpec,
    pub(crate) alias: Vec<String>,
}

#[derive(Default)]
pub(crate) struct VariableSpec {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    pub(crate) public: bool,
    pub(crate) masked: bool,
    pub(crate) file: bool,
    /// Not to be expanded.
    pub(crate) raw: bool,
}

impl VariableSpec {
    /// Its value, unless that is a secret by the variable's own flags.
    pub(crate) fn open_value(&self) -> Option<&str> {
        self.value.as_deref().filter(|_| self.public && !self.masked && !self.file)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("origin", &self.origin).field("project", &self.project).finish_non_exhaustive()
    }
}

/// Reads one document of either shape, told apart by its keys. `None` means that a fault was noted.
pub(crate) fn read(document: &Cursor<'_>) -> Option<Content> {
    let document = document.mapping_of()?;
    let native = ["job", "project", "payload"].iter().any(|key| document.has(key));
    match (document.has("gitlab"), native) {
        (true, false) => gitlab::read(&document),
        (false, true) => native::read(&document),
        (true, true) => {
            document.note("this has keys of both shapes: `gitlab`, and `job`, `project` or `payload`");
            None
        }
        (false, false) if document.has("job_info") || document.has("git_info") => {
            let help = "put it under `gitlab`: {\"gitlab\": {…}, \"tags\": […]}";
            document.note_with_help("this looks like GitLab's response itself", help);
            None
        }
        (false, false) => {
            let help = "a job document is {\"job\": {…}, \"project\": {…}} or {\"gitlab\": {…}}";
            document.note_with_help("this is not a job document: neither `job` nor `gitlab` is in it", help);
            None
        }
    }
}

/// The job's tags; absent is unknown.
pub(crate) fn tags(parent: &Cursor<'_>) -> Option<Vec<String>> {
    let list = parent.get("tags")?;
    let tags = list.texts();
    if tags.len() > TAGS_MAX {
        list.note(format_args!("{} tags; a job has at most {TAGS_MAX}", tags.len()));
    }
    Some(tags)
}

/// The project's path.
pub(crate) fn project(parent: &Cursor<'_>, key: &'static str) -> Option<ProjectPath> {
    let Some(path) = parent.get(key) else {
        parent.note(format_args!("`{key}` is missing: whose job is this?"));
        return None;
    };
    path.text()?.parse().map_err(|error| path.note(error)).ok()
}

/// A kind of ref; empty is unknown, as other kinds are.
pub(crate) fn ref_type(parent: &Cursor<'_>) -> Option<RefType> {
    match parent.get("ref_type")?.text()? {
        "branch" => Some(RefType::Branch),
        "tag" => Some(RefType::Tag),
        _ => None,
    }
}

/// A user to run as: a name or a number.
pub(crate) fn user(parent: &Cursor<'_>) -> Option<String> {
    let user = parent.get("user")?;
    let text = user.as_text().map(str::to_owned).or_else(|| user.as_integer().map(|id| id.to_string()));
    text.or_else(|| user.expected("text or a whole number")).filter(|user| !user.is_empty())
}
