use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use jobgate_proto::admission::v1::{
    AdmitRequest, Image, Job, Project, RefType, Runner, RunnerType, Script, ScriptLine, Service, Strings, User,
    Variable,
};

use crate::{AdmissionRequest, Question, Subject};

/// Starts a question about a job of project `acme/app`, on the unprotected branch `main`, in the image `alpine:3.20`, asked on
/// Saturday 2026-11-21 at noon UTC with two seconds to answer. Each has its own ids.
pub fn request() -> RequestBuilder {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let job = Job {
        id: format!("job-{number}"),
        name: Some("test".into()),
        stage: Some("test".into()),
        r#ref: Some("main".into()),
        ref_type: Some(RefType::Branch.into()),
        protected: Some(false),
        environment: Some(String::new()),
        tags: Some(Strings::default()),
        image: Some(image("alpine:3.20")),
        ..Job::default()
    };
    let question = Question {
        id: format!("question-{number}").into(),
        admission_id: format!("admission-{number}").into(),
        controller: "test".into(),
        scope: "instance".into(),
        dry_run: false,
        time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_262_400),
        time_left: Duration::from_secs(2),
    };
    RequestBuilder { question, job, project: Project::default(), user: None, runner: None }.project("acme/app")
}

/// A question in the making; see [`request()`].
#[derive(Clone, Debug)]
#[must_use = "call `.build()`"]
pub struct RequestBuilder {
    question: Question,
    job: Job,
    project: Project,
    user: Option<User>,
    runner: Option<Runner>,
}

impl RequestBuilder {
    /// The project, by its full path; its groups follow from it.
    pub fn project(mut self, path: &str) -> Self {
        let groups = path.match_indices('/').map(|(end, _)| path[..end].to_owned()).collect();
        self.project = Project { id: self.project.id, path: path.into(), groups };
        self
    }

    /// The image, by its name as written; the parts follow from it as they do in the router.
    pub fn image(mut self, name: &str) -> Self {
        self.job.image = Some(image(name));
        self
    }

    /// No image.
    pub fn no_image(mut self) -> Self {
        self.job.image = None;
        self
    }

    /// Adds a service, by the name of its image.
    pub fn service(mut self, name: &str) -> Self {
        self.job.services.push(Service { image: Some(image(name)), alias: Vec::new() });
        self
    }

    /// Adds a tag that the job asks of its runner.
    pub fn tag(mut self, tag: &str) -> Self {
        self.job.tags.get_or_insert_default().values.push(tag.into());
        self
    }

    /// Runs for this branch.
    pub fn branch(mut self, name: &str) -> Self {
        (self.job.r#ref, self.job.ref_type) = (Some(name.into()), Some(RefType::Branch.into()));
        self
    }

    /// Runs for this tag of the repository.
    pub fn git_tag(mut self, name: &str) -> Self {
        (self.job.r#ref, self.job.ref_type) = (Some(name.into()), Some(RefType::Tag.into()));
        self
    }

    /// Whether its ref is protected.
    pub fn protected(mut self, protected: bool) -> Self {
        self.job.protected = Some(protected);
        self
    }

    /// The deployment environment.
    pub fn environment(mut self, name: &str) -> Self {
        self.job.environment = Some(name.into());
        self
    }

    /// What started the pipeline, as `push`.
    pub fn source(mut self, source: &str) -> Self {
        self.job.source = Some(source.into());
        self
    }

    /// Adds a public variable with its value exposed.
    pub fn variable(mut self, key: &str, value: &str) -> Self {
        let (key, value) = (key.into(), Some(value.into()));
        self.job.variables.push(Variable { key, value, public: true, masked: false, file: false });
        self
    }

    /// Exposes a script of these lines.
    pub fn script<'a>(mut self, lines: impl IntoIterator<Item = &'a str>) -> Self {
        let line = |(n, text): (usize, &str)| ScriptLine { place: format!("steps.script[{n}]"), text: text.into() };
        self.job.script = Some(Script { lines: lines.into_iter().enumerate().map(line).collect() });
        self
    }

    /// Who started the pipeline.
    pub fn user(mut self, login: &str) -> Self {
        self.user = Some(User { id: None, login: Some(login.into()) });
        self
    }

    /// The runner that would execute the job.
    pub fn runner(mut self, name: &str) -> Self {
        let r#type = Some(RunnerType::Instance.into());
        self.runner = Some(Runner { name: name.into(), r#type, tags: Some(Strings::default()), ..Runner::default() });
        self
    }

    /// The id of the question. Two questions with one id are the same question.
    pub fn id(mut self, id: &str) -> Self {
        self.question.id = id.into();
        self
    }

    /// When it is asked, by the router's clock.
    pub fn at(mut self, time: SystemTime) -> Self {
        self.question.time = time;
        self
    }

    /// Time left to answer.
    pub fn time_left(mut self, time_left: Duration) -> Self {
        self.question.time_left = time_left;
        self
    }

    /// Any other change to the job.
    pub fn job(mut self, change: impl FnOnce(&mut Job)) -> Self {
        change(&mut self.job);
        self
    }

    /// Any other change to the question's own part.
    pub fn question(mut self, change: impl FnOnce(&mut Question)) -> Self {
        change(&mut self.question);
        self
    }

    /// The question.
    #[must_use]
    pub fn build(self) -> AdmissionRequest {
        let (user, runner) = (self.user.map(Arc::new), self.runner.map(Arc::new));
        let (job, project) = (Arc::new(self.job), Arc::new(self.project));
        AdmissionRequest::new(self.question, Subject { job, project, user, runner })
    }

    /// The question as it goes over the wire.
    #[must_use]
    pub fn wire(self) -> AdmitRequest {
        AdmitRequest::from(&self.build())
    }
}

/// An image by its name as written. Follows the rules of Docker's reference grammar for what a name leaves out.
fn image(name: &str) -> Image {
    let mut image = Image { name: name.into(), resolved: name.into(), ..Image::default() };
    if name.contains('$') {
        image.unresolved = true;
        return image;
    }
    let (rest, digest) = name.split_once('@').map_or((name, None), |(rest, digest)| (rest, Some(digest.to_owned())));
    let colon = rest.rfind(':').filter(|colon| !rest[*colon..].contains('/'));
    let (path, tag) = colon.map_or((rest, None), |colon| (&rest[..colon], Some(rest[colon + 1..].to_owned())));
    let is_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
    let (registry, repository) = match path.split_once('/') {
        Some((first, repository)) if is_registry(first) => (first, repository.to_owned()),
        Some(_) => ("docker.io", path.to_owned()),
        None => ("docker.io", format!("library/{path}")),
    };
    image.registry = Some(registry.into());
    image.repository = Some(repository);
    image.tag = tag.or_else(|| digest.is_none().then(|| "latest".into()));
    image.digest = digest;
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_name_leaves_out_is_filled_in_as_docker_does() {
        let parts = |name| {
            let Image { registry, repository, tag, digest, .. } = image(name);
            [registry, repository, tag, digest].map(Option::unwrap_or_default)
        };
        assert_eq!(parts("alpine"), ["docker.io", "library/alpine", "latest", ""]);
        assert_eq!(parts("acme/app:1"), ["docker.io", "acme/app", "1", ""]);
        assert_eq!(parts("localhost:5000/app"), ["localhost:5000", "app", "latest", ""]);
        assert_eq!(parts("r.example/a/b@sha256:00"), ["r.example", "a/b", "", "sha256:00"]);
        assert!(image("alpine:$TAG").unresolved);
    }

    #[test]
    fn groups_follow_from_the_path() {
        let request = request().project("acme/payments/api").build();
        assert_eq!(request.project().groups, ["acme", "acme/payments"]);
        assert_eq!(jiff::Timestamp::try_from(request.time()).unwrap().to_string(), "2026-11-21T12:00:00Z");
    }
}
