use std::{fmt, time::SystemTime};

use jobgate_sdk::{AdmissionRequest, Image, RefType, RunnerType, User};
use regex::Regex;

use super::{
    glob::Patterns,
    image::{ImagePattern, is_unresolved},
    within::Window,
};

/// The keys of matchers, in the order they are asked: cheap ones first.
pub(super) const KEYS: [&str; 22] = [
    "projects",
    "groups",
    "refs",
    "ref_types",
    "protected",
    "sources",
    "environments",
    "stages",
    "jobs",
    "users",
    "tags",
    "image",
    "image_registry",
    "image_repository",
    "image_tag",
    "image_digest",
    "services",
    "runner_tags",
    "runner_types",
    "variables",
    "script",
    "within",
];

/// One matcher: what of the question it looks at, and what it wants to see there.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    pub(super) key: &'static str,
    /// Line of its key.
    pub(super) line: u32,
    pub(super) test: Test,
}

#[derive(Clone, Debug)]
pub(super) enum Test {
    Text(TextField, Patterns),
    List(ListField, Patterns),
    Kind(KindField, Kinds),
    Groups(Patterns),
    Users { ids: Vec<i64>, logins: Patterns },
    Image(ImagePatterns),
    Services(ImagePatterns),
    ImagePart(ImagePart, Patterns),
    Variable { key: Box<str>, values: Patterns },
    Script { regexes: Vec<Regex>, absent: bool },
    Within(Vec<Window>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum TextField {
    Project,
    Ref,
    Source,
    Environment,
    Stage,
    Job,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ListField {
    Tags,
    RunnerTags,
    VariableNames,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum KindField {
    Protected,
    RefType,
    RunnerType,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ImagePart {
    Registry,
    Repository,
    Tag,
    Digest,
}

/// Wanted kinds by their numbers; `true` is 1.
#[derive(Clone, Debug, Default)]
pub(super) struct Kinds {
    pub(super) values: Vec<i32>,
    pub(super) absent: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ImagePatterns {
    pub(super) patterns: Vec<ImagePattern>,
    pub(super) absent: bool,
}

/// Whether one value is a wanted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Yes,
    No,
    /// An image whose name has a `$VARIABLE` left over: not known to match, nor known not to.
    Unresolved,
}

/// A value that decided, to be shown.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found<'a> {
    Text(&'a str),
    Kind(&'static str),
    Image(&'a Image),
    Part(&'a str, &'a Image),
    User(&'a User),
    /// Where a line of the script stands. The line itself may hold anything.
    Script(&'a str),
    Time(SystemTime),
    /// A list that is known to be empty.
    Nothing,
    Unknown,
}

impl Matcher {
    /// As a condition of `match`: any value is wanted.
    pub(super) fn holds(&self, request: &AdmissionRequest) -> bool {
        self.first(request, |held| held == Held::Yes).is_some()
    }

    /// As a `require`: the first value that is not known to be wanted.
    pub(super) fn unmet<'a>(&'a self, request: &'a AdmissionRequest) -> Option<Found<'a>> {
        self.first(request, |held| held != Held::Yes)
    }

    /// As a `forbid`: the first value that may be one of those.
    pub(super) fn present<'a>(&'a self, request: &'a AdmissionRequest) -> Option<Found<'a>> {
        self.first(request, |held| held != Held::No)
    }

    fn first<'a>(&'a self, request: &'a AdmissionRequest, is: impl Fn(Held) -> bool) -> Option<Found<'a>> {
        self.values(request, |held, found| is(held).then_some(found))
    }

    /// Shows each value with what is thought of it, until `see` has seen enough.
    fn values<'a, T>(
        &'a self,
        request: &'a AdmissionRequest,
        mut see: impl FnMut(Held, Found<'a>) -> Option<T>,
    ) -> Option<T> {
        let job = request.job();
        match &self.test {
            Test::Text(field, patterns) => {
                let value = field.of(request);
                see(patterns.matches(value).into(), value.map_or(Found::Unknown, Found::Text))
            }
            Test::List(field, patterns) => field.judge(request, patterns, see),
            Test::Kind(field, kinds) => match field.of(request) {
                Some((number, name)) => see(kinds.values.contains(&number).into(), Found::Kind(name)),
                None => see(kinds.absent.into(), Found::Unknown),
            },
            Test::Groups(patterns) => {
                // A project is in its group and in every group above it: one place in a tree, not a list of things.
                let groups = &request.project().groups;
                let group = groups.iter().find(|group| patterns.matches(Some(group))).or(groups.last());
                match group {
                    Some(group) => see(patterns.matches(Some(group)).into(), Found::Text(group)),
                    None => see(patterns.absent.into(), Found::Nothing),
                }
            }
            Test::Users { ids, logins } => {
                let user = request.user();
                let id = user.and_then(|user| user.id).is_some_and(|id| ids.contains(&id));
                let held = id || logins.matches(user.and_then(|user| user.login.as_deref()));
                see(held.into(), user.map_or(Found::Unknown, Found::User))
            }
            Test::Image(patterns) => images(request).find_map(|image| patterns.judge(image, &mut see)),
            Test::Services(patterns) => match job.services.is_empty() {
                true => patterns.absent.then(|| see(Held::Yes, Found::Nothing)).flatten(),
                false => services(request).find_map(|image| patterns.judge(Some(image), &mut see)),
            },
            Test::ImagePart(part, patterns) => images(request).find_map(|image| part.judge(image, patterns, &mut see)),
            Test::Variable { key, values } => {
                let mut same = job.variables.iter().filter(|variable| *variable.key == **key).peekable();
                if same.peek().is_none() {
                    return see(values.absent.into(), Found::Unknown);
                }
                same.find_map(|variable| {
                    let value = variable.value.as_deref();
                    see(values.matches(value).into(), value.map_or(Found::Unknown, Found::Text))
                })
            }
            Test::Script { regexes, absent } => script(request, regexes, *absent, see),
            Test::Within(windows) => {
                let time = request.time();
                see(windows.iter().any(|window| window.holds(time)).into(), Found::Time(time))
            }
        }
    }

    /// A value to name when the matcher does not hold.
    pub(super) fn value<'a>(&'a self, request: &'a AdmissionRequest) -> Found<'a> {
        self.first(request, |_| true).unwrap_or(Found::Nothing)
    }

    /// What it wants, as written, for messages: `image: registry.acme.example/**`.
    pub(super) fn wanted(&self) -> String {
        let patterns: Vec<&str> = match &self.test {
            Test::Text(_, patterns)
            | Test::List(_, patterns)
            | Test::Groups(patterns)
            | Test::ImagePart(_, patterns)
            | Test::Variable { values: patterns, .. } => patterns.written().collect(),
            Test::Image(images) | Test::Services(images) => {
                images.patterns.iter().map(ImagePattern::as_str).chain(images.absent.then_some("")).collect()
            }
            Test::Script { regexes, .. } => regexes.iter().map(Regex::as_str).collect(),
            Test::Within(windows) => windows.iter().map(|window| &*window.text).collect(),
            Test::Kind(field, kinds) => {
                let names = kinds.values.iter().map(|number| field.name(*number));
                names.chain(kinds.absent.then_some("")).collect()
            }
            Test::Users { ids, logins } => {
                let ids: Vec<_> = ids.iter().map(i64::to_string).collect();
                return one_of(&ids.iter().map(String::as_str).chain(logins.written()).collect::<Vec<_>>());
            }
        };
        one_of(&patterns)
    }

    /// What it looks at, for messages: `image_tag`, `variable CI_REGISTRY`.
    pub(super) fn subject(&self) -> String {
        match &self.test {
            Test::Variable { key, .. } => format!("variable {key}"),
            _ => self.key.to_owned(),
        }
    }
}

const MOST_SHOWN: usize = 5;

fn one_of(patterns: &[&str]) -> String {
    let shown = patterns.iter().take(MOST_SHOWN).map(|pattern| match *pattern {
        "" => "nothing".to_owned(),
        pattern => format!("`{pattern}`"),
    });
    let mut text = shown.collect::<Vec<_>>().join(" or ");
    if patterns.len() > MOST_SHOWN {
        text.push_str(&format!(" or {} more", patterns.len() - MOST_SHOWN));
    }
    text
}

impl TextField {
    fn of(self, request: &AdmissionRequest) -> Option<&str> {
        let job = request.job();
        match self {
            Self::Project => Some(&request.project().path),
            Self::Ref => job.r#ref.as_deref(),
            Self::Source => job.source.as_deref(),
            Self::Environment => job.environment.as_deref(),
            Self::Stage => job.stage.as_deref(),
            Self::Job => job.name.as_deref(),
        }
    }
}

impl ListField {
    fn judge<'a, T>(
        self,
        request: &'a AdmissionRequest,
        patterns: &Patterns,
        mut see: impl FnMut(Held, Found<'a>) -> Option<T>,
    ) -> Option<T> {
        let mut judge = |values: &mut dyn Iterator<Item = &'a str>| {
            let mut values = values.peekable();
            if values.peek().is_none() {
                // Known to be empty: every element is wanted, none is unwanted, and only `""` finds anything.
                return patterns.absent.then(|| see(Held::Yes, Found::Nothing)).flatten();
            }
            values.find_map(|value| see(patterns.matches(Some(value)).into(), Found::Text(value)))
        };
        let tags = match self {
            Self::VariableNames => return judge(&mut request.job().variables.iter().map(|variable| &*variable.key)),
            Self::Tags => request.job().tags.as_ref(),
            Self::RunnerTags => request.runner().and_then(|runner| runner.tags.as_ref()),
        };
        match tags {
            Some(tags) => judge(&mut tags.values.iter().map(String::as_str)),
            None => see(patterns.absent.into(), Found::Unknown),
        }
    }
}

impl KindField {
    /// Number and name of the value, unless it is unknown.
    fn of(self, request: &AdmissionRequest) -> Option<(i32, &'static str)> {
        let number = match self {
            Self::Protected => request.job().protected.map(i32::from),
            Self::RefType => request.job().ref_type.filter(|kind| *kind != 0),
            Self::RunnerType => request.runner().and_then(|runner| runner.r#type).filter(|kind| *kind != 0),
        };
        number.map(|number| (number, self.name(number)))
    }

    fn name(self, number: i32) -> &'static str {
        self.words().iter().find(|(_, value)| *value == Some(number)).map_or("unknown", |(word, _)| word)
    }

    /// What may be written, with its number.
    pub(super) fn words(self) -> &'static [(&'static str, Option<i32>)] {
        match self {
            Self::Protected => &[("true", Some(1)), ("false", Some(0)), ("", None)],
            Self::RefType => {
                &[("branch", Some(RefType::Branch as i32)), ("tag", Some(RefType::Tag as i32)), ("", None)]
            }
            Self::RunnerType => &[
                ("instance", Some(RunnerType::Instance as i32)),
                ("group", Some(RunnerType::Group as i32)),
                ("project", Some(RunnerType::Project as i32)),
                ("", None),
            ],
        }
    }
}

impl ImagePatterns {
    fn judge<'a, T>(&self, image: Option<&'a Image>, see: &mut impl FnMut(Held, Found<'a>) -> Option<T>) -> Option<T> {
        match image {
            None => see(self.absent.into(), Found::Unknown),
            Some(image) if is_unresolved(image) => see(Held::Unresolved, Found::Image(image)),
            Some(image) => see(self.patterns.iter().any(|pattern| pattern.matches(image)).into(), Found::Image(image)),
        }
    }
}

impl ImagePart {
    fn judge<'a, T>(
        self,
        image: Option<&'a Image>,
        patterns: &Patterns,
        see: &mut impl FnMut(Held, Found<'a>) -> Option<T>,
    ) -> Option<T> {
        let Some(image) = image else { return see(patterns.absent.into(), Found::Unknown) };
        if is_unresolved(image) {
            return see(Held::Unresolved, Found::Image(image));
        }
        let value = match self {
            Self::Registry => &image.registry,
            Self::Repository => &image.repository,
            Self::Tag => &image.tag,
            Self::Digest => &image.digest,
        };
        let found = Found::Part(value.as_deref().unwrap_or_default(), image);
        see(patterns.matches(value.as_deref()).into(), found)
    }
}

/// The job's image, which may be none, and that of every service.
fn images(request: &AdmissionRequest) -> impl Iterator<Item = Option<&Image>> {
    std::iter::once(request.job().image.as_ref()).chain(services(request).map(Some))
}

fn services(request: &AdmissionRequest) -> impl Iterator<Item = &Image> {
    // A service without its image is malformed; what will run is not known then.
    static UNKNOWN: std::sync::LazyLock<Image> =
        std::sync::LazyLock::new(|| Image { unresolved: true, ..Image::default() });
    request.job().services.iter().map(|service| service.image.as_ref().unwrap_or(&UNKNOWN))
}

fn script<'a, T>(
    request: &'a AdmissionRequest,
    regexes: &[Regex],
    absent: bool,
    mut see: impl FnMut(Held, Found<'a>) -> Option<T>,
) -> Option<T> {
    let Some(script) = &request.job().script else { return see(absent.into(), Found::Unknown) };
    if script.lines.is_empty() {
        return absent.then(|| see(Held::Yes, Found::Nothing)).flatten();
    }
    script.lines.iter().find_map(|line| {
        commands(&line.text, |command| {
            see(regexes.iter().any(|regex| regex.is_match(command)).into(), Found::Script(&line.place))
        })
    })
}

/// The lines of a text, those joined that a shell joins: after a trailing `\`, and after a trailing `|`.
fn commands<T>(text: &str, mut see: impl FnMut(&str) -> Option<T>) -> Option<T> {
    let mut open = String::new();
    for line in text.lines() {
        let (line, goes_on) = match line.strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, line.trim_end().ends_with('|')),
        };
        if goes_on {
            open.push_str(line);
            open.push(' ');
            continue;
        }
        let found = match open.is_empty() {
            true if line.trim().is_empty() => None,
            true => see(line),
            false => {
                open.push_str(line);
                see(&std::mem::take(&mut open))
            }
        };
        if found.is_some() {
            return found;
        }
    }
    (!open.is_empty()).then(|| see(&open)).flatten()
}

impl From<bool> for Held {
    fn from(held: bool) -> Self {
        if held { Self::Yes } else { Self::No }
    }
}

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text("") | Self::Nothing => f.write_str("nothing"),
            Self::Text(text) => write!(f, "`{text}`"),
            Self::Kind(name) => write!(f, "`{name}`"),
            Self::Image(image) => image_name(image, f),
            Self::Part("", image) => {
                f.write_str("nothing in ")?;
                image_name(image, f)
            }
            Self::Part(part, image) => {
                write!(f, "`{part}` in ")?;
                image_name(image, f)
            }
            Self::User(user) => match (&user.login, user.id) {
                (Some(login), Some(id)) => write!(f, "`{login}` ({id})"),
                (Some(login), None) => write!(f, "`{login}`"),
                (None, Some(id)) => write!(f, "`{id}`"),
                (None, None) => f.write_str("unknown"),
            },
            Self::Script(place) => write!(f, "in {place}"),
            Self::Time(time) => match jiff::Timestamp::try_from(*time) {
                Ok(time) => write!(f, "{time:.0}"),
                Err(_) => f.write_str("unknown"),
            },
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

fn image_name(image: &Image, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let resolved = [&image.resolved, &image.name].into_iter().find(|name| !name.is_empty());
    match resolved {
        Some(name) if is_unresolved(image) => write!(f, "`{name}`, which is not resolved"),
        Some(name) => write!(f, "`{name}`"),
        None => f.write_str("an image without a name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_joined_as_a_shell_joins_them() {
        let mut seen = Vec::new();
        commands("curl x \\\n  -o y\n\nwget z |\n sh\ntail |", |command| -> Option<()> {
            seen.push(command.to_owned());
            None
        });
        assert_eq!(seen, ["curl x    -o y", "wget z |  sh", "tail | "]);
    }
}
