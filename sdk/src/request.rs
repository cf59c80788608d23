use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use jobgate_proto::admission::v1::{AdmitRequest, Job, Project, Runner, User};
use serde::{Serialize, Serializer};

/// The question a controller is asked: may this job run?
///
/// Read-only, and cheap to clone. What is unknown is `None`; unknown is not `false`, `0`, `""` or `[]`. No secret of the
/// job is in it: see the notes in `admission.proto`. Serialising it gives the JSON form that Rego policies see as `input`.
#[derive(Clone, Debug)]
pub struct AdmissionRequest {
    question: Question,
    subject: Subject,
}

/// What is asked about: the same for all controllers of one admission, save for what each one's `expose` list adds.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The job.
    pub job: Arc<Job>,
    /// Whose job it is.
    pub project: Arc<Project>,
    /// Who started the pipeline, when known.
    pub user: Option<Arc<User>>,
    /// The runner that would execute the job, once it is chosen.
    pub runner: Option<Arc<Runner>>,
}

/// Who is asked, when, and for how long.
#[derive(Clone, Debug)]
pub struct Question {
    /// Id of the question; the same when it is asked again.
    pub id: Arc<str>,
    /// Id of the admission it belongs to.
    pub admission_id: Arc<str>,
    /// Name of the controller being asked.
    pub controller: Arc<str>,
    /// Where that controller applies, as `group:acme`.
    pub scope: Arc<str>,
    /// Whether the verdict is only recorded.
    pub dry_run: bool,
    /// When the admission was asked, by the router's clock.
    pub time: SystemTime,
    /// Time left to answer.
    pub time_left: Duration,
}

/// Why a message is not a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the question has no {missing}")]
pub struct MalformedRequest {
    id: String,
    missing: &'static str,
}

impl MalformedRequest {
    /// The id it came with; empty if that is what is missing.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl AdmissionRequest {
    /// Puts a question together; routers and tests do.
    #[must_use]
    pub fn new(question: Question, subject: Subject) -> Self {
        Self { question, subject }
    }

    /// Id of this question.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.question.id
    }

    /// Id of the admission this question belongs to: the same for all controllers asked in one go.
    #[must_use]
    pub fn admission_id(&self) -> &str {
        &self.question.admission_id
    }

    /// The job.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.subject.job
    }

    /// Whose job it is.
    #[must_use]
    pub fn project(&self) -> &Project {
        &self.subject.project
    }

    /// Who started the pipeline; `None` when unknown.
    #[must_use]
    pub fn user(&self) -> Option<&User> {
        self.subject.user.as_deref()
    }

    /// The runner that would execute the job; `None` until it is chosen.
    #[must_use]
    pub fn runner(&self) -> Option<&Runner> {
        self.subject.runner.as_deref()
    }

    /// Name of the controller being asked, as the router calls it.
    #[must_use]
    pub fn controller(&self) -> &str {
        &self.question.controller
    }

    /// Where that controller applies, as `group:acme`.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.question.scope
    }

    /// Whether the verdict is recorded but not enforced.
    #[must_use]
    pub fn dry_run(&self) -> bool {
        self.question.dry_run
    }

    /// When the admission was asked, by the router's clock. Use this and no clock of your own, so that the same question gets
    /// the same answer.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        self.question.time
    }

    /// How much time was left to answer when the question was sent.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.question.time_left
    }

    /// The question's own part, without what it is about.
    #[must_use]
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// What is asked about.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }
}

impl TryFrom<AdmitRequest> for AdmissionRequest {
    type Error = MalformedRequest;

    fn try_from(wire: AdmitRequest) -> Result<Self, Self::Error> {
        let AdmitRequest { id, job, project, time, .. } = wire;
        let missing = |id: String, missing| Err(MalformedRequest { id, missing });
        if id.is_empty() {
            return missing(id, "id");
        }
        let Some(job) = job else { return missing(id, "job") };
        let Some(project) = project else { return missing(id, "project") };
        let Some(time) = time else { return missing(id, "time") };
        let Ok(time) = time.try_into() else { return missing(id, "time that a clock can show") };
        Ok(Self {
            question: Question {
                id: id.into(),
                admission_id: wire.admission_id.into(),
                controller: wire.controller.into(),
                scope: wire.scope.into(),
                dry_run: wire.dry_run,
                time,
                // A negative or absent time left is none.
                time_left: wire.time_left.and_then(|left| left.try_into().ok()).unwrap_or_default(),
            },
            subject: Subject {
                job: job.into(),
                project: project.into(),
                user: wire.user.map(Arc::new),
                runner: wire.runner.map(Arc::new),
            },
        })
    }
}

impl From<&AdmissionRequest> for AdmitRequest {
    fn from(request: &AdmissionRequest) -> Self {
        let AdmissionRequest { question, subject } = request;
        Self {
            id: question.id.to_string(),
            admission_id: question.admission_id.to_string(),
            job: Some(Job::clone(&subject.job)),
            project: Some(Project::clone(&subject.project)),
            user: subject.user.as_deref().cloned(),
            runner: subject.runner.as_deref().cloned(),
            controller: question.controller.to_string(),
            scope: question.scope.to_string(),
            dry_run: question.dry_run,
            time: Some(question.time.into()),
            time_left: question.time_left.try_into().ok(),
        }
    }
}

impl Serialize for AdmissionRequest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::{Error, SerializeStruct};

        let AdmissionRequest { question, subject } = self;
        let time = jiff::Timestamp::try_from(question.time).map_err(Error::custom)?;
        let time_left = prost_types::Duration::try_from(question.time_left).map_err(Error::custom)?;
        let mut form = to.serialize_struct("AdmitRequest", 11)?;
        form.serialize_field("id", &question.id)?;
        form.serialize_field("admission_id", &question.admission_id)?;
        form.serialize_field("job", &subject.job)?;
        form.serialize_field("project", &subject.project)?;
        match &subject.user {
            Some(user) => form.serialize_field("user", user)?,
            None => form.skip_field("user")?,
        }
        match &subject.runner {
            Some(runner) => form.serialize_field("runner", runner)?,
            None => form.skip_field("runner")?,
        }
        form.serialize_field("controller", &question.controller)?;
        form.serialize_field("scope", &question.scope)?;
        form.serialize_field("dry_run", &question.dry_run)?;
        form.serialize_field("time", &time)?;
        form.serialize_field("time_left", &time_left.to_string())?;
        form.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_json_form_is_that_of_the_wire_message() {
        let wire = AdmitRequest {
            id: "q1".into(),
            admission_id: "a1".into(),
            job: Some(Job { id: "j1".into(), protected: Some(false), ..Job::default() }),
            project: Some(Project { path: "acme/api".into(), groups: vec!["acme".into()], ..Project::default() }),
            user: Some(User { id: Some(7), login: None }),
            runner: Some(Runner { name: "r1".into(), ..Runner::default() }),
            controller: "c".into(),
            scope: "instance".into(),
            dry_run: false,
            time: Some(prost_types::Timestamp { seconds: 1_795_000_000, nanos: 5_000_000 }),
            time_left: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
        };
        let request = AdmissionRequest::try_from(wire.clone()).unwrap();
        assert_eq!(serde_json::to_value(&request).unwrap(), serde_json::to_value(&wire).unwrap());
        assert_eq!(AdmitRequest::from(&request), wire);
    }

    #[test]
    fn a_message_without_what_it_is_about_is_not_a_question() {
        assert!(AdmissionRequest::try_from(AdmitRequest::default()).is_err());
    }
}
