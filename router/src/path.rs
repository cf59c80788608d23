use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::Arc,
};

/// Longest path, in bytes.
const PATH_MAX: usize = 1024;
/// Longest segment, in bytes; GitLab's own limit.
const SEGMENT_MAX: usize = 255;

/// Full path of a project, `acme/payments/api`.
///
/// Written as it came; compared ASCII case-insensitively, as GitLab does. What is not a plain path is refused, never
/// normalised.
#[derive(Clone)]
pub struct ProjectPath(Arc<str>);

/// Full path of a group, `acme/payments`. Compared as [`ProjectPath`].
#[derive(Clone)]
pub struct GroupPath(Arc<str>);

/// Where a controller applies; always downward.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every job.
    Instance,
    /// The jobs of a group and of all that is below it.
    Group(GroupPath),
    /// The jobs of one project.
    Project(ProjectPath),
    /// The jobs that the runner of this name would execute.
    Runner(Arc<str>),
}

/// Why a text is no path, or no scope. Says nothing of what the text was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PathError(&'static str);

impl ProjectPath {
    /// The path as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The groups it is in, root first: `acme`, `acme/payments`.
    pub fn groups(&self) -> impl Iterator<Item = GroupPath> {
        self.0.match_indices('/').map(|(end, _)| GroupPath(self.0[..end].into()))
    }
}

impl FromStr for ProjectPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        check(text).map(|()| Self(text.into()))
    }
}

impl GroupPath {
    /// The path as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the project is in this group or below it, by whole segments: `acme` covers `ACME/x` and not `acme-evil/x`.
    #[must_use]
    pub fn covers(&self, project: &ProjectPath) -> bool {
        below(&self.0, &project.0)
    }

    /// Whether the other group is this one or below it.
    #[must_use]
    pub fn covers_group(&self, group: &Self) -> bool {
        self == group || below(&self.0, &group.0)
    }
}

impl FromStr for GroupPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        check(text).map(|()| Self(text.into()))
    }
}

impl Scope {
    /// Whether a job of this project, executed by the runner of this name once one is chosen, is within the scope.
    #[must_use]
    pub fn covers(&self, project: &ProjectPath, runner: Option<&str>) -> bool {
        match self {
            Self::Instance => true,
            Self::Group(group) => group.covers(project),
            Self::Project(own) => own == project,
            Self::Runner(name) => runner == Some(name),
        }
    }
}

impl FromStr for Scope {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        match text.split_once(':') {
            None if text == "instance" => Ok(Self::Instance),
            Some(("group", path)) => path.parse().map(Self::Group),
            Some(("project", path)) => path.parse().map(Self::Project),
            Some(("runner", name)) => check_runner(name).map(|()| Self::Runner(name.into())),
            _ => Err(PathError("a scope is `instance`, `group:<path>`, `project:<path>` or `runner:<name>`")),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance => f.write_str("instance"),
            Self::Group(path) => write!(f, "group:{path}"),
            Self::Project(path) => write!(f, "project:{path}"),
            Self::Runner(name) => write!(f, "runner:{name}"),
        }
    }
}

/// Comparison without ASCII case, and plain printing, for both kinds of path.
macro_rules! path {
    ($($path:ident),*) => {$(
        impl PartialEq for $path {
            fn eq(&self, other: &Self) -> bool {
                self.0.eq_ignore_ascii_case(&other.0)
            }
        }

        impl Eq for $path {}

        impl Hash for $path {
            fn hash<H: Hasher>(&self, state: &mut H) {
                for byte in self.0.bytes() {
                    state.write_u8(byte.to_ascii_lowercase());
                }
                state.write_u8(0xff);
            }
        }

        impl fmt::Display for $path {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $path {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )*};
}

path!(ProjectPath, GroupPath);

fn below(group: &str, path: &str) -> bool {
    let (group, path) = (group.as_bytes(), path.as_bytes());
    path.len() > group.len() && path[group.len()] == b'/' && path[..group.len()].eq_ignore_ascii_case(group)
}

fn check(path: &str) -> Result<(), PathError> {
    if path.len() > PATH_MAX {
        return Err(PathError("a path has at most 1024 characters"));
    }
    path.split('/').try_for_each(check_segment)?;
    // GitLab refuses such names, because clone URLs end so: `acme/x.git` and `acme/x` must not both be projects.
    match path.len().checked_sub(4).and_then(|at| path.get(at..)) {
        Some(end) if end.eq_ignore_ascii_case(".git") => Err(PathError("a path does not end in `.git`")),
        _ => Ok(()),
    }
}

fn check_segment(segment: &str) -> Result<(), PathError> {
    match segment {
        "" => Err(PathError("a path has no empty segments")),
        "." | ".." => Err(PathError("a path has no `.` or `..` segments")),
        _ if segment.len() > SEGMENT_MAX => Err(PathError("a segment of a path has at most 255 characters")),
        _ if !segment.bytes().all(is_plain) => {
            Err(PathError("a path is letters, digits, `_`, `.` and `-`, with `/` between its segments"))
        }
        _ => Ok(()),
    }
}

fn check_runner(name: &str) -> Result<(), PathError> {
    match name.is_empty() || name.len() > SEGMENT_MAX || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        true => Err(PathError("the name of a runner is 1 to 255 characters without spaces")),
        false => Ok(()),
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    fn project(text: &str) -> ProjectPath {
        text.parse().unwrap()
    }

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn tricks_with_segments_are_refused() {
        let tricks = [
            "",
            "/",
            "acme/",
            "/acme",
            "acme//x",
            "acme/./x",
            "acme/../evil",
            "..",
            ".",
            "acme/x.git",
            "acme/x.GIT",
            ".git",
            "acme/%2e%2e/evil",
            "acme%2Fx",
            "acme\\x",
            "acme/x y",
            "acme/x\n",
            "acme/x\0",
            "acme/x?",
            "acme:x",
            "\u{430}cme/x",
            "acme\u{2215}x",
            "acme/\u{202e}x",
            "\u{212a}/x",
        ];
        for trick in tricks {
            assert!(trick.parse::<ProjectPath>().is_err(), "{trick:?} as a project");
            assert!(trick.parse::<GroupPath>().is_err(), "{trick:?} as a group");
        }
        assert!("a/".repeat(600).trim_end_matches('/').parse::<ProjectPath>().is_err());
        assert!("a".repeat(256).parse::<ProjectPath>().is_err());
        for plain in ["acme/payments/api", "a", "a.b/c-d/e_f", "...", "acme/.github", "0/1"] {
            assert_eq!(project(plain).as_str(), plain);
        }
    }

    #[test]
    fn paths_compare_by_whole_segments_and_without_case() {
        let acme = scope("group:acme");
        for inside in ["acme/x", "ACME/x", "acme/payments/api"] {
            assert!(acme.covers(&project(inside), None), "{inside}");
        }
        for outside in ["acme", "acme-evil/x", "acm/x", "acmex/x", "x/acme", "x/acme/y"] {
            assert!(!acme.covers(&project(outside), None), "{outside}");
        }
        assert!(scope("group:Acme/Payments").covers(&project("acme/payments/api"), None));
        assert!(!scope("group:acme/pay").covers(&project("acme/payments/api"), None));
        assert!(scope("project:acme/x").covers(&project("Acme/X"), None));
        assert!(!scope("project:acme/x").covers(&project("acme/x/y"), None));
        let hashes = RandomState::new();
        assert_eq!(hashes.hash_one(project("ACME/x")), hashes.hash_one(project("acme/X")));
    }

    #[test]
    fn groups_come_root_first() {
        let groups: Vec<_> = project("acme/payments/api").groups().map(|group| group.to_string()).collect();
        assert_eq!(groups, ["acme", "acme/payments"]);
        assert_eq!(project("alone").groups().count(), 0);
    }

    #[test]
    fn scopes_read_as_they_print() {
        for text in ["instance", "group:acme/payments", "project:acme/payments/api", "runner:gpu-1"] {
            assert_eq!(scope(text).to_string(), text);
        }
        for text in
            ["", "Instance", "instance:", "group", "group:", "group:/acme", "team:acme", "runner:", "runner:a b"]
        {
            assert!(text.parse::<Scope>().is_err(), "{text:?}");
        }
        assert!(scope("runner:gpu-1").covers(&project("a/b"), Some("gpu-1")));
        assert!(!scope("runner:gpu-1").covers(&project("a/b"), None));
    }
}
