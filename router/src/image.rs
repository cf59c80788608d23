use std::{
    borrow::Cow,
    cell::{Cell, OnceCell},
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use jobgate_sdk::Image;
use oci_spec::distribution::Reference;

use crate::{
    document::{Content, ImageSpec, VariableSpec},
    view::secrets::{self, Secrets},
};

/// References within references that are followed.
const DEPTH_MAX: usize = 16;
/// References replaced in one document; nested ones would otherwise multiply.
const REPLACED_MAX: usize = 10_000;
/// Longest name after resolving. What is longer is no image, and a few nested variables can make it very long.
const RESOLVED_MAX: usize = 4096;

/// Resolves the names of a job's images, as GitLab Runner would.
///
/// The runner replaces `$KEY` and `${KEY}` by the last variable of that key; `$$` is a dollar. It does not replace within
/// what it has put in, but GitLab has resolved the variables themselves before; so they are resolved here, except `raw`
/// ones. Whatever is not certain is left as written, and so unresolved:
///
/// - variables that are not public, masked, files, or set twice to different values;
/// - those the runner replaces by its own: `FF_*`, fetched secrets, and [`RUNNER_SET`];
/// - special parameters, `${KEY:-default}`, and `${{ … }}` (job inputs, which the runner fills in).
pub(crate) struct Resolver<'c> {
    /// The variable of each key that may be taken.
    values: OnceCell<HashMap<&'c str, &'c VariableSpec>>,
    content: &'c Content,
    secrets: &'c Secrets<'c>,
    /// References that may still be replaced.
    left: Cell<usize>,
}

/// Variables that the runner sets after the job's own (`getBaseVariablesAfterJob` and `GetDefaultVariables` in
/// gitlab-runner's `common/build.go`), or that say where it works.
const RUNNER_SET: &[&str] = &[
    "CI_BUILDS_DIR",
    "CI_CONCURRENT_ID",
    "CI_CONCURRENT_PROJECT_ID",
    "CI_DISPOSABLE_ENVIRONMENT",
    "CI_JOB_IMAGE",
    "CI_JOB_STATUS",
    "CI_PROJECT_DIR",
    "CI_RUNNER_EXECUTABLE_ARCH",
    "CI_RUNNER_REVISION",
    "CI_RUNNER_VERSION",
    "CI_SERVER",
    "CI_SERVER_TLS_CA_FILE",
    "CI_SERVER_TLS_CERT_FILE",
    "CI_SERVER_TLS_KEY_FILE",
    "CI_SHARED_ENVIRONMENT",
    "RUNNER_TEMP_PROJECT_DIR",
    "STEPS",
];

impl<'c> Resolver<'c> {
    pub(crate) fn new(content: &'c Content, secrets: &'c Secrets<'c>) -> Self {
        Self { values: OnceCell::new(), content, secrets, left: Cell::new(REPLACED_MAX) }
    }

    /// The image as policies see it.
    pub(crate) fn image(&self, spec: &ImageSpec) -> Image {
        let name = self.resolve(&spec.name);
        let user = spec.users.first().map(|user| self.resolve(user));
        let platform = spec.platform.as_deref().map(|platform| self.resolve(platform));
        let certain = user.iter().chain(&platform).all(|value| !is_open(value)) && !has_inputs(spec);
        let clean = |text: &str| self.secrets.clean(text).into_owned();
        let (shown_name, shown_resolved) = match hides_userinfo(&spec.name) || hides_userinfo(&name) {
            true => (secrets::REDACTED.to_owned(), secrets::REDACTED.to_owned()),
            false => (clean(&spec.name), clean(&name)),
        };
        // What cannot be shown cannot be judged.
        let parts = if certain && shown_resolved == name { known(&name) } else { None };
        let mut image = Image {
            name: shown_name,
            resolved: shown_resolved,
            unresolved: parts.is_none(),
            pull_policy: spec.pull_policy.iter().map(|text| clean(text)).collect(),
            entrypoint: spec.entrypoint.iter().map(|text| clean(text)).collect(),
            command: spec.command.iter().map(|text| clean(text)).collect(),
            user: user.map(|user| clean(&user)),
            platform: platform.map(|platform| clean(&platform)),
            ..Image::default()
        };
        if let Some(parts) = parts {
            image.registry = Some(parts.registry);
            image.repository = Some(parts.repository);
            image.tag = parts.tag;
            image.digest = parts.digest;
        }
        image
    }

    fn resolve<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if !text.contains('$') {
            return text.into();
        }
        let mut out = String::with_capacity(text.len() * 2);
        self.expand(text, &mut Vec::new(), &mut out);
        out.into()
    }

    /// Appends `text` with its references replaced. `open` are the keys being replaced, so that a cycle is left as written.
    fn expand<'t>(&'t self, text: &'t str, open: &mut Vec<&'t str>, out: &mut String) {
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let (reference, after) = rest[at..].split_at(reference_len(&rest[at..]));
            rest = after;
            let key = key_of(reference).filter(|key| open.len() < DEPTH_MAX && !open.contains(key));
            match key.and_then(|key| Some((key, self.take(key)?))) {
                Some((_, (value, true))) if out.len() + value.len() <= RESOLVED_MAX => out.push_str(value),
                Some((key, (value, false))) if out.len() + value.len() <= RESOLVED_MAX => {
                    open.push(key);
                    self.expand(value, open, out);
                    open.pop();
                }
                // As it is: the dollar that stays makes the name unresolved.
                _ => out.push_str(reference),
            }
        }
        out.push_str(rest);
    }

    /// The value that the runner will certainly take, and whether it is raw.
    fn take(&self, key: &str) -> Option<(&'c str, bool)> {
        self.left.set(self.left.get().checked_sub(1)?);
        let variable = self.values.get_or_init(|| self.certain()).get(key)?;
        let value = variable.open_value().filter(|value| value.len() <= RESOLVED_MAX && !self.secrets.is_in(value))?;
        Some((value, variable.raw))
    }

    /// The variables that are single-valued and stay so.
    fn certain(&self) -> HashMap<&'c str, &'c VariableSpec> {
        let mut values: HashMap<&str, Option<&VariableSpec>> = HashMap::new();
        for variable in self.content.variables.iter().flatten() {
            let value = values.entry(&variable.key).or_insert(Some(variable));
            *value = value.filter(|first| is_same(first, variable));
        }
        for key in self.content.secret_keys.iter().map(String::as_str).chain(RUNNER_SET.iter().copied()) {
            values.remove(key);
        }
        values
            .into_iter()
            .filter(|(key, _)| !key.starts_with("FF_"))
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    }
}

fn is_same(one: &VariableSpec, other: &VariableSpec) -> bool {
    let flags = |variable: &VariableSpec| (variable.public, variable.masked, variable.file, variable.raw);
    one.value == other.value && flags(one) == flags(other)
}

/// Bytes of the reference that `text`, which begins with a dollar, begins with.
fn reference_len(text: &str) -> usize {
    let rest = &text[1..];
    match rest.bytes().next() {
        Some(b'{') => rest.find('}').map_or(text.len(), |end| end + 2),
        Some(b'$') => 2,
        _ => 1 + rest.bytes().take_while(|byte| is_word(*byte)).count(),
    }
}

/// The key of a reference, if it is a plain one.
fn key_of(reference: &str) -> Option<&str> {
    let name = reference.strip_prefix('$')?;
    let key = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    let plain = key.bytes().all(is_word) && key.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    plain.then_some(key)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether a value still has a reference in it.
fn is_open(value: &str) -> bool {
    value.contains('$')
}

/// Whether job inputs, which only the runner fills in, are part of how the image is run.
fn has_inputs(spec: &ImageSpec) -> bool {
    [&spec.pull_policy, &spec.entrypoint, &spec.command].into_iter().flatten().any(|text| text.contains("${{"))
}

/// Whether a name has userinfo or a scheme in it. No image name has; what has one is not shown.
fn hides_userinfo(name: &str) -> bool {
    name.contains("://") || name.split_once('@').is_some_and(|(_, after)| after.contains(['/', '@']))
}

/// An image name in its parts, normalised as Docker does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Names remembered at once: a CI server's jobs name the same few images all day, and reading a name takes longer than the
/// rest of a view. None of them holds a secret.
const KNOWN_MAX: usize = 1024;
/// Longer names are not remembered.
const KNOWN_LENGTH: usize = 512;

/// [`parse`], once for each name.
fn known(name: &str) -> Option<Parts> {
    static KNOWN: LazyLock<Mutex<HashMap<Box<str>, Option<Parts>>>> = LazyLock::new(Mutex::default);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(parts) = known().get(name) {
        return parts.clone();
    }
    let parts = parse(name);
    if name.len() <= KNOWN_LENGTH {
        let mut known = known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(name.into(), parts.clone());
    }
    parts
}

/// `None` is every name of which it is not certain what will run.
fn parse(name: &str) -> Option<Parts> {
    if name.len() > RESOLVED_MAX || !name.is_ascii() || is_image_id(name) {
        return None;
    }
    let reference: Reference = name.parse().ok()?;
    let (mut registry, mut repository) = (reference.registry().to_owned(), reference.repository().to_owned());
    // Docker takes a first part with a capital letter for a host, dots or not; the parser does not.
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        let (host, path) = name.split_once('/')?;
        registry = host.to_owned();
        repository = repository.strip_prefix(host)?.strip_prefix('/')?.to_owned();
        debug_assert!(path.starts_with(&repository));
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let digest = reference.digest().map(str::to_owned);
    // Digests are lower case; the parser lets capitals in.
    if digest.as_deref().is_some_and(|digest| digest.bytes().any(|byte| byte.is_ascii_uppercase())) {
        return None;
    }
    // Hosts have no case.
    registry.make_ascii_lowercase();
    Some(Parts { registry, repository, tag: reference.tag().map(str::to_owned), digest })
}

/// Whether Docker takes it for the id of an image that the runner already has, whatever that is.
fn is_image_id(name: &str) -> bool {
    let id = name.strip_prefix("sha256:").unwrap_or(name);
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c";

    fn parts(registry: &str, repository: &str, tag: Option<&str>, digest: Option<&str>) -> Option<Parts> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Parts { registry: registry.into(), repository: repository.into(), tag: owned(tag), digest: owned(digest) })
    }

    #[test]
    fn names_are_normalised_as_docker_does() {
        for (name, registry, repository, tag) in [
            ("alpine", "docker.io", "library/alpine", "latest"),
            ("alpine:3.20", "docker.io", "library/alpine", "3.20"),
            ("acme/api", "docker.io", "acme/api", "latest"),
            ("docker.io/alpine", "docker.io", "library/alpine", "latest"),
            ("index.docker.io/alpine:3", "docker.io", "library/alpine", "3"),
            ("localhost/x", "localhost", "x", "latest"),
            ("localhost:5000/x:1", "localhost:5000", "x", "1"),
            ("reg.example/x/y/z:1", "reg.example", "x/y/z", "1"),
            ("reg:5000/x", "reg:5000", "x", "latest"),
            ("reg.example:5000", "docker.io", "library/reg.example", "5000"),
            ("REG.Example/x", "reg.example", "x", "latest"),
            // Docker takes a first part with a capital for a host.
            ("EVIL/x:1", "evil", "x", "1"),
            ("Evil/library/alpine", "evil", "library/alpine", "latest"),
            ("alpine:Latest", "docker.io", "library/alpine", "Latest"),
        ] {
            assert_eq!(parse(name), parts(registry, repository, Some(tag), None), "{name}");
        }
        assert_eq!(parse(&format!("alpine@{DIGEST}")), parts("docker.io", "library/alpine", None, Some(DIGEST)));
        assert_eq!(parse(&format!("a.b/c:1@{DIGEST}")), parts("a.b", "c", Some("1"), Some(DIGEST)));
    }

    #[test]
    fn names_that_are_not_certain_have_no_parts() {
        let upper = format!("alpine@{}", DIGEST.replace("b5bb", "B5BB"));
        for name in [
            "",
            " ",
            "alpine ",
            " alpine",
            "alpine:",
            "alpine@",
            "alpine:a:b",
            "alpine:$T",
            "$IMAGE",
            "Alpine",
            "acme/Api",
            "[::1]:5000/x",
            "[fe80::1]/x",
            "https://reg.example/x",
            "docker://alpine",
            "user:secret@reg.example/x",
            "alpine@sha256:abc",
            "alpine@md5:d41d8cd98f00b204e9800998ecf8427e",
            "a//b",
            "/a",
            "a/",
            "../a",
            "a/../b",
            "r\u{435}g.example/x",
            "alpine:\u{661}",
            "alpine\n",
            "alpine\0",
            "a b",
            "a\tb",
            "-a",
            ".a",
            // Ids of images that the runner may have.
            DIGEST,
            &DIGEST[7..],
            &upper,
        ] {
            assert_eq!(parse(name), None, "{name:?}");
        }
        assert_eq!(parse(&"a/".repeat(100_000)), None);
    }

    #[test]
    fn references_are_told_from_text() {
        for (text, reference, key) in [
            ("$A/x", "$A", Some("A")),
            ("$A_1-x", "$A_1", Some("A_1")),
            ("${A}x", "${A}", Some("A")),
            ("$$A", "$$", None),
            ("${A:-x}", "${A:-x}", None),
            ("${{ job.inputs.x }}", "${{ job.inputs.x }", None),
            ("${A", "${A", None),
            ("${}", "${}", None),
            ("$1x", "$1x", None),
            ("$", "$", None),
            ("$-", "$", None),
        ] {
            let (found, _) = text.split_at(reference_len(text));
            assert_eq!((found, key_of(found)), (reference, key), "{text}");
        }
    }

    #[test]
    fn userinfo_and_schemes_are_told_from_digests() {
        for name in ["u:p@reg/x", "u@reg/x:1", "https://reg/x", "a@b@c", "$U:$P@reg/x"] {
            assert!(hides_userinfo(name), "{name}");
        }
        for name in ["alpine", "a/b:1@sha256:00", "alpine@$DIGEST"] {
            assert!(!hides_userinfo(name), "{name}");
        }
    }
}
