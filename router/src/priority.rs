//! Which class a job has, and which weight a project.

use crate::{
    config::{PriorityRule, WeightRule},
    glob::{ProjectGlob, TextGlob},
    job::NewJob,
    path::ProjectPath,
};

/// The class of a job: that of the first rule that fits, else 0. A job whose document contradicts itself has 0, too: nothing it
/// says can be trusted.
pub(crate) fn class_of(rules: &[PriorityRule], new: &NewJob) -> i32 {
    let Ok(view) = &new.view else { return 0 };
    rules.iter().find(|rule| rule.fits(view.job(), &new.project)).map_or(0, |rule| rule.class)
}

/// The weight of a project: that of the first entry that fits, else 1.
pub(crate) fn weight_of(rules: &[WeightRule], project: &ProjectPath) -> u32 {
    rules.iter().find(|rule| any_project(&rule.projects, project)).map_or(1, |rule| rule.weight)
}

impl PriorityRule {
    /// Whether it fits a job of a project. All its matchers must hold; one about something that nobody told does not.
    #[must_use]
    pub fn fits(&self, job: &jobgate_sdk::Job, project: &ProjectPath) -> bool {
        (self.projects.is_empty() || any_project(&self.projects, project))
            && any_text(&self.environments, job.environment.as_deref())
            && any_text(&self.refs, job.r#ref.as_deref())
            && (self.sources.is_empty() || job.source.as_ref().is_some_and(|source| self.sources.contains(source)))
            && self.protected.is_none_or(|protected| job.protected == Some(protected))
    }
}

fn any_project(globs: &[ProjectGlob], project: &ProjectPath) -> bool {
    globs.iter().any(|glob| glob.matches(project.as_str()))
}

fn any_text(globs: &[TextGlob], text: Option<&str>) -> bool {
    globs.is_empty() || text.is_some_and(|text| globs.iter().any(|glob| glob.matches(text)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::job_of;

    fn rule(class: i32, change: impl FnOnce(&mut PriorityRule)) -> PriorityRule {
        let mut rule = PriorityRule { class, ..PriorityRule::default() };
        change(&mut rule);
        rule
    }

    fn text(globs: &[&str]) -> Vec<TextGlob> {
        globs.iter().map(|glob| TextGlob::parse(glob).unwrap()).collect()
    }

    fn projects(globs: &[&str]) -> Vec<ProjectGlob> {
        globs.iter().map(|glob| ProjectGlob::parse(glob).unwrap()).collect()
    }

    #[expect(clippy::needless_pass_by_value, reason = "a literal is written at every call")]
    fn class(rules: &[PriorityRule], job: serde_json::Value) -> i32 {
        class_of(rules, &job_of("1", json!({ "job": job, "project": { "path": "acme/payments/api" } })))
    }

    #[test]
    fn the_first_rule_that_fits_gives_the_class() {
        let rules = [
            rule(10, |rule| {
                rule.environments = text(&["production", "eu/*"]);
                rule.protected = Some(true);
            }),
            rule(-5, |rule| rule.sources = vec!["schedule".into(), "web".into()]),
            rule(5, |rule| {
                rule.projects = projects(&["ACME/payments/**"]);
                rule.refs = text(&["main"]);
            }),
        ];
        let given = json!({ "environment": "production", "protected": true, "source": "schedule", "ref": "main" });
        assert_eq!(class(&rules, given), 10);
        assert_eq!(class(&rules, json!({ "environment": "eu/west", "protected": true })), 10);
        assert_eq!(class(&rules, json!({ "environment": "eu/west/1", "protected": true })), 0);
        assert_eq!(class(&rules, json!({ "environment": "production", "protected": false })), 0);
        assert_eq!(class(&rules, json!({ "source": "schedule", "ref": "main" })), -5, "the first, not the highest");
        assert_eq!(class(&rules, json!({ "source": "push", "ref": "main" })), 5);
        assert_eq!(class(&rules, json!({ "ref": "Main" })), 0, "refs are compared exactly");
    }

    #[test]
    fn a_matcher_about_what_nobody_told_does_not_hold() {
        for matcher in [
            rule(1, |rule| rule.environments = text(&["**"])),
            rule(1, |rule| rule.refs = text(&["**"])),
            rule(1, |rule| rule.sources = vec!["push".into()]),
            rule(1, |rule| rule.protected = Some(false)),
            rule(1, |rule| rule.protected = Some(true)),
        ] {
            assert_eq!(class(std::slice::from_ref(&matcher), json!({ "name": "a" })), 0, "{matcher:?}");
        }
        assert_eq!(class(&[rule(1, |rule| rule.projects = projects(&["**"]))], json!({ "name": "a" })), 1);
    }

    #[test]
    fn a_document_that_contradicts_itself_has_no_class() {
        let mut new = job_of("1", json!({ "job": { "name": "a" }, "project": { "path": "a/b" } }));
        let rules = [rule(7, |rule| rule.projects = projects(&["**"]))];
        assert_eq!(class_of(&rules, &new), 7);
        new.view = Err(crate::view::ViewRejection::ProjectDisagrees);
        assert_eq!(class_of(&rules, &new), 0);
    }

    #[test]
    fn the_first_entry_that_fits_gives_the_weight() {
        let rules = [
            WeightRule { projects: projects(&["acme/tools", "acme/infra/**"]), weight: 5 },
            WeightRule { projects: projects(&["acme/**"]), weight: 3 },
        ];
        let weight = |path: &str| weight_of(&rules, &path.parse().unwrap());
        assert_eq!([weight("acme/tools"), weight("acme/infra/dns"), weight("ACME/x"), weight("other/x")], [5, 5, 3, 1]);
    }
}
