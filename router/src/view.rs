use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use jobgate_sdk::{
    AdmissionRequest, Job, Project, Question, Runner, Script, ScriptLine, Service, Strings, Subject, User, Variable,
};

use crate::{
    ProjectPath,
    document::{Content, ImageSpec, JobDocument, Origin, VariableSpec},
    image::Resolver,
};

mod expose;
mod predefined;
pub(crate) mod secrets;

pub use expose::{Expose, UnknownExpose};

use secrets::Secrets;

/// A job as controllers see it: read-only, without its secrets, and separately for each `expose` list.
///
/// Holds the document's secrets so that it can tell them apart; its `Debug` form and what it gives out have none.
pub struct View {
    content: Arc<Content>,
    plain: Arc<Job>,
    project: Arc<Project>,
    user: Option<Arc<User>>,
    /// The jobs of lists that expose something, as they were first asked for.
    exposed: Mutex<Vec<(Expose, Arc<Job>)>>,
}

/// Why a job is rejected before any controller is asked: its document contradicts itself, so nothing it says can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ViewRejection {
    /// The job's author has set variables that GitLab sets, and so made claims of them.
    #[error("{} set twice to different values: GitLab sets {}, and the job must not", names(.0), if .0.len() == 1 { "it" } else { "them" })]
    PredefinedTwice(Vec<String>),
    /// The path of the project is not the one in the repository's URL.
    #[error("job_info.project_full_path is not the path of git_info.repo_url: it is not certain whose job this is")]
    ProjectDisagrees,
    /// The id beside GitLab's response is not the one in it.
    #[error("user.id is not job_info.user_id: it is not certain whose job this is")]
    UserDisagrees,
    /// An image is to run as one user under Docker and as another under Kubernetes.
    #[error("executor_opts name one user for docker and another for kubernetes: it is not certain which will run")]
    ImageUsersDisagree,
    /// The job is over, and what it was made of is forgotten.
    #[error("the job is over")]
    Over,
}

/// Makes the view of a job. `id` is the router's own id of it.
///
/// # Errors
///
/// A job whose document contradicts itself.
pub fn view(document: &JobDocument, id: &str) -> Result<View, ViewRejection> {
    let content = document.content();
    check(content)?;
    let (plain, user) = Viewer::new(content, &Expose::default()).plain(id);
    let project = Project {
        id: content.project_id,
        path: content.project.as_str().to_owned(),
        groups: content.project.groups().map(|group| group.as_str().to_owned()).collect(),
    };
    Ok(View {
        content: content.clone(),
        plain: plain.into(),
        project: project.into(),
        user: user.map(Arc::new),
        exposed: Mutex::default(),
    })
}

/// The question about a document, for tools that ask one controller once.
///
/// # Errors
///
/// A job whose document contradicts itself.
pub fn question_from_document(
    document: &JobDocument,
    runner: Option<Runner>,
    time: SystemTime,
    expose: &Expose,
) -> Result<AdmissionRequest, ViewRejection> {
    let mut subject = view(document, "job")?.subject(expose);
    subject.runner = runner.map(Arc::new);
    let question = Question {
        id: "question".into(),
        admission_id: "admission".into(),
        controller: "policy".into(),
        scope: "instance".into(),
        dry_run: false,
        time,
        time_left: Duration::from_secs(2),
    };
    Ok(AdmissionRequest::new(question, subject))
}

impl View {
    /// The job with the scheduling class that the router's rules give it.
    #[must_use]
    pub fn with_priority(mut self, priority: i32) -> Self {
        Arc::make_mut(&mut self.plain).priority = priority;
        for (_, job) in self.exposed.get_mut().unwrap_or_else(PoisonError::into_inner) {
            Arc::make_mut(job).priority = priority;
        }
        self
    }

    /// What a controller with this `expose` list is asked about; the runner is not chosen yet.
    #[must_use]
    pub fn subject(&self, expose: &Expose) -> Subject {
        Subject { job: self.job_for(expose), project: self.project.clone(), user: self.user.clone(), runner: None }
    }

    /// The job as everyone sees it.
    #[must_use]
    pub fn job(&self) -> &Arc<Job> {
        &self.plain
    }

    /// Whose job it is.
    #[must_use]
    pub fn project(&self) -> &Arc<Project> {
        &self.project
    }

    /// Path of the project.
    #[must_use]
    pub fn path(&self) -> &ProjectPath {
        &self.content.project
    }

    /// Who started the pipeline, when known.
    #[must_use]
    pub fn user(&self) -> Option<&Arc<User>> {
        self.user.as_ref()
    }

    fn job_for(&self, expose: &Expose) -> Arc<Job> {
        if expose.is_empty() {
            return self.plain.clone();
        }
        let mut exposed = self.exposed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, job)) = exposed.iter().find(|(list, _)| list == expose) {
            return job.clone();
        }
        let mut job = Job::clone(&self.plain);
        Viewer::new(&self.content, expose).expose(&mut job);
        let job = Arc::new(job);
        exposed.push((expose.clone(), job.clone()));
        job
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("id", &self.plain.id)
            .field("project", &self.content.project)
            .finish_non_exhaustive()
    }
}

/// Makes the parts of one view.
struct Viewer<'c> {
    content: &'c Content,
    secrets: Secrets<'c>,
    expose: &'c Expose,
}

impl<'c> Viewer<'c> {
    fn new(content: &'c Content, expose: &'c Expose) -> Self {
        Self { content, secrets: Secrets::of(content), expose }
    }

    /// The job as everyone sees it, and its user.
    fn plain(&self, id: &str) -> (Job, Option<User>) {
        let content = self.content;
        let resolver = Resolver::new(content, &self.secrets);
        let mut claims = Vec::new();
        let source = self.source(&mut claims);
        let environment = self.environment(&mut claims);
        let user = self.user(&mut claims);
        let service = |service: &crate::document::ServiceSpec| Service {
            image: Some(resolver.image(&service.image)),
            alias: self.texts(&service.alias),
        };
        let job = Job {
            id: id.to_owned(),
            source_id: self.text(&content.source_id),
            name: self.text(&content.name),
            stage: self.text(&content.stage),
            pipeline_id: content.pipeline_id,
            source,
            r#ref: self.text(&content.ref_name),
            ref_type: content.ref_type.map(Into::into),
            protected: content.protected,
            sha: self.text(&content.sha),
            environment,
            tags: content.tags.as_ref().map(|tags| Strings { values: self.texts(tags) }),
            image: content.image.as_ref().map(|image| resolver.image(image)),
            services: content.services.iter().map(service).collect(),
            variables: self.variables(),
            timeout_seconds: content.timeout_seconds,
            artifact_paths: self.texts(&content.artifact_paths),
            cache_keys: self.texts(&content.cache_keys),
            secret_providers: self.texts(&content.secret_providers),
            script: None,
            priority: 0,
            claims,
        };
        (job, user)
    }

    /// Adds what is exposed.
    fn expose(&self, job: &mut Job) {
        job.variables = self.variables();
        if self.expose.script() {
            let line = |line: &ScriptLine| ScriptLine {
                place: self.secrets.clean(&line.place).into_owned(),
                text: self.secrets.without_credentials(&line.text).into_owned(),
            };
            job.script = Some(Script { lines: self.content.script.iter().map(line).collect() });
        }
    }

    fn variables(&self) -> Vec<Variable> {
        let variable = |variable: &VariableSpec| Variable {
            key: self.secrets.clean(&variable.key).into_owned(),
            value: self.value(variable).map(str::to_owned),
            public: variable.public,
            masked: variable.masked,
            file: variable.file,
        };
        self.content.variables.iter().flatten().map(variable).collect()
    }

    /// The value of a variable, if it may be shown to this controller.
    fn value<'v>(&self, variable: &'v VariableSpec) -> Option<&'v str> {
        let value = variable.open_value()?;
        // What GitLab sets may happen to be the value of someone's variable, too, and is none the less public.
        let secret = match predefined::is_sent(&variable.key) {
            true => self.secrets.is_marked_in(value),
            false if self.expose.variable(&variable.key) => self.secrets.is_private_in(value),
            false => true,
        };
        (!secret).then_some(value)
    }

    /// What started the pipeline. From GitLab it is a claim.
    fn source(&self, claims: &mut Vec<String>) -> Option<String> {
        match self.content.origin {
            Origin::Native => self.text(&self.content.source),
            Origin::GitLab => self.claim("CI_PIPELINE_SOURCE", "source", claims),
        }
    }

    /// The environment. From GitLab it is a claim, unless there is no such variable: nobody can take one away.
    fn environment(&self, claims: &mut Vec<String>) -> Option<String> {
        const KEY: &str = "CI_ENVIRONMENT_NAME";
        if self.content.origin == Origin::Native {
            return self.text(&self.content.environment);
        }
        match self.content.variables.as_ref()?.iter().any(|variable| variable.key == KEY) {
            true => self.claim(KEY, "environment", claims),
            false => Some(String::new()),
        }
    }

    /// Who started the pipeline. A login that stands in no document of its own is a claim.
    fn user(&self, claims: &mut Vec<String>) -> Option<User> {
        let content = self.content;
        let login = match (&content.user_login, content.origin) {
            (Some(_), _) => self.text(&content.user_login),
            (None, Origin::GitLab) => self.claim("GITLAB_USER_LOGIN", "user.login", claims),
            (None, Origin::Native) => None,
        };
        let id = content.user_id.or(content.stated_user_id);
        (id.is_some() || login.is_some()).then_some(User { id, login })
    }

    /// A field that is read from a variable.
    fn claim(&self, key: &str, field: &str, claims: &mut Vec<String>) -> Option<String> {
        let variable = self.content.variables.iter().flatten().find(|variable| variable.key == key)?;
        let value = self.secrets.clean(variable.open_value()?).into_owned();
        claims.push(field.to_owned());
        Some(value)
    }

    fn text(&self, text: &Option<String>) -> Option<String> {
        text.as_deref().map(|text| self.secrets.clean(text).into_owned())
    }

    fn texts(&self, texts: &[String]) -> Vec<String> {
        texts.iter().map(|text| self.secrets.clean(text)).map(Cow::into_owned).collect()
    }
}

/// Finds what a document contradicts itself in.
fn check(content: &Content) -> Result<(), ViewRejection> {
    if content.origin == Origin::GitLab {
        check_predefined(content.variables.as_deref().unwrap_or_default())?;
    }
    if content.repo_path.as_deref().is_some_and(|path| !ends_in(path, content.project.as_str())) {
        return Err(ViewRejection::ProjectDisagrees);
    }
    if matches!((content.user_id, content.stated_user_id), (Some(one), Some(other)) if one != other) {
        return Err(ViewRejection::UserDisagrees);
    }
    let images = content.image.iter().chain(content.services.iter().map(|service| &service.image));
    let disagree = |image: &ImageSpec| matches!(image.users.as_slice(), [one, other] if one != other);
    match images.into_iter().any(disagree) {
        true => Err(ViewRejection::ImageUsersDisagree),
        false => Ok(()),
    }
}

/// GitLab writes its own variables first and the author's after them, under the same keys; runners take the last.
fn check_predefined(variables: &[VariableSpec]) -> Result<(), ViewRejection> {
    let mut values = HashMap::new();
    let mut twice: Vec<String> = Vec::new();
    for variable in variables.iter().filter(|variable| predefined::is_predefined(&variable.key)) {
        let first = values.entry(variable.key.as_str()).or_insert(&variable.value);
        if **first != variable.value && !twice.contains(&variable.key) {
            twice.push(variable.key.clone());
        }
    }
    match twice.is_empty() {
        true => Ok(()),
        false => Err(ViewRejection::PredefinedTwice(twice)),
    }
}

/// Whether a URL's path ends in the project's, by whole segments. A GitLab may live below a path of its own.
fn ends_in(path: &str, project: &str) -> bool {
    let (path, project) = (path.as_bytes(), project.as_bytes());
    let Some(at) = path.len().checked_sub(project.len()) else { return false };
    path[at..].eq_ignore_ascii_case(project) && (at == 0 || path[at - 1] == b'/')
}

fn names(keys: &[String]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
    format!("{} {}", keys.join(", "), if keys.len() == 1 { "is" } else { "are" })
}
