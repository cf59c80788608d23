use jobgate_sdk::Image;

use super::glob::{BadPattern, Case, Glob};

/// A pattern for a whole image, compared part by part: registry and repository, tag, digest. Parts left out at the end stand
/// for anything, and what Docker adds to a name is added to a pattern: `alpine` is `docker.io/library/alpine`.
#[derive(Clone, Debug)]
pub(super) struct ImagePattern {
    text: Box<str>,
    place: Where,
    tag: Option<Glob>,
    digest: Option<Glob>,
}

#[derive(Clone, Debug)]
enum Where {
    /// A registry, and a repository within it.
    Parts(Glob, Glob),
    /// Both at once: the pattern begins with `**`.
    Whole(Glob),
}

impl ImagePattern {
    pub(super) fn new(text: &str) -> Result<Self, BadPattern> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let last = name.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match name[last..].find(':') {
            Some(at) => (&name[..last + at], Some(&name[last + at + 1..])),
            None => (name, None),
        };
        if [Some(name), tag, digest].contains(&Some("")) {
            return Err(BadPattern::new("this pattern names no image").help(EXAMPLES));
        }
        // A wildcard that stands for a whole tag or digest stands for none as well.
        let part = |part: Option<&str>| match part {
            None | Some("*" | "**") => Ok(None),
            Some(part) => Glob::new(part, Case::Exact).map(Some),
        };
        Ok(Self { text: text.into(), place: Where::new(name)?, tag: part(tag)?, digest: part(digest)? })
    }

    /// Whether this is the image. One whose name could not be resolved is no image at all: ask [`is_unresolved`] first.
    pub(super) fn matches(&self, image: &Image) -> bool {
        let part = |glob: &Option<Glob>, value: &Option<String>| match (glob, value) {
            (None, _) => true,
            (Some(glob), Some(value)) => glob.matches(value),
            (Some(_), None) => false,
        };
        self.place.matches(image) && part(&self.tag, &image.tag) && part(&self.digest, &image.digest)
    }

    /// As written.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

/// Whether what will run is not known: a `$VARIABLE` is left over, or nobody could make a repository out of the name.
pub(super) fn is_unresolved(image: &Image) -> bool {
    image.unresolved || image.repository.is_none() || image.registry.is_none()
}

const EXAMPLES: &str = "write `registry.acme.example/**`, `docker.io/library/alpine:3.*` or `alpine:3.20`";

impl Where {
    fn new(name: &str) -> Result<Self, BadPattern> {
        let Some((first, rest)) = name.split_once('/') else { return Self::on_docker_hub(name) };
        if first.starts_with("**") || (first.contains("**") && is_host(first)) {
            return Ok(Self::Whole(Glob::new(name, Case::Folded)?));
        }
        if is_host(first) {
            let rest = match (docker_hub(first), rest.contains('/') || rest.contains("**")) {
                (true, false) => &format!("library/{rest}"),
                _ => rest,
            };
            let first = if docker_hub(first) { "docker.io" } else { first };
            return Ok(Self::Parts(Glob::new(first, Case::Folded)?, Glob::new(rest, Case::Exact)?));
        }
        if first.contains(['*', '?']) {
            let message = format!("`{first}` may be a registry, or a name on Docker Hub");
            return Err(BadPattern::new(message).help(format!("write `docker.io/{name}`, or `**/{rest}` for all")));
        }
        Ok(Self::Parts(Glob::new("docker.io", Case::Folded)?, Glob::new(name, Case::Exact)?))
    }

    /// A name of one segment.
    fn on_docker_hub(name: &str) -> Result<Self, BadPattern> {
        if name.starts_with("**") {
            return Ok(Self::Whole(Glob::new(name, Case::Folded)?));
        }
        if name.starts_with(['*', '?']) {
            let message = format!("`{name}` stops at `/`, so it would mean Docker Hub's own images only");
            return Err(BadPattern::new(message).help("write `**` for all images, or `docker.io/library/*` for those"));
        }
        if is_host(name) {
            let message = format!("`{name}` is a registry without a repository");
            return Err(BadPattern::new(message).help(format!("write `{name}/**` for all of it")));
        }
        Ok(Self::Parts(Glob::new("docker.io", Case::Folded)?, Glob::new(&format!("library/{name}"), Case::Exact)?))
    }

    fn matches(&self, image: &Image) -> bool {
        let (Some(registry), Some(repository)) = (&image.registry, &image.repository) else { return false };
        match self {
            Self::Parts(registries, repositories) => registries.matches(registry) && repositories.matches(repository),
            Self::Whole(glob) => glob.matches(&format!("{registry}/{repository}")),
        }
    }
}

/// As Docker tells a registry from the first part of a repository.
fn is_host(segment: &str) -> bool {
    segment.contains(['.', ':']) || segment == "localhost"
}

fn docker_hub(host: &str) -> bool {
    host.eq_ignore_ascii_case("docker.io") || host.eq_ignore_ascii_case("index.docker.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(registry: &str, repository: &str, tag: &str, digest: &str) -> Image {
        let part = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Image {
            registry: part(registry),
            repository: part(repository),
            tag: part(tag),
            digest: part(digest),
            ..Image::default()
        }
    }

    #[test]
    fn a_pattern_means_what_a_security_team_means() {
        let alpine = image("docker.io", "library/alpine", "3.20", "");
        let pinned = image("docker.io", "library/alpine", "3.20", "sha256:3abc");
        let digest_only = image("docker.io", "library/alpine", "", "sha256:3abc");
        let ours = image("registry.acme.example", "tools/build", "1", "");
        let port = image("registry.acme.example:5000", "tools/build", "1", "");
        let fake = image("evil.example", "registry.acme.example/tools/build", "1", "");
        let squatter = image("evil.example", "alpine", "3.20", "");
        for (pattern, image, expected) in [
            ("alpine", &alpine, true),
            ("alpine", &pinned, true),
            ("alpine", &digest_only, true),
            ("alpine", &squatter, false),
            ("alpine:3.*", &alpine, true),
            ("alpine:3.*", &pinned, true),
            ("alpine:3.*", &digest_only, false),
            ("alpine:*", &digest_only, true),
            ("alpine@sha256:*", &alpine, false),
            ("alpine@sha256:3abc", &pinned, true),
            ("alpine:3.20@sha256:3abc", &pinned, true),
            ("docker.io/library/alpine:3.*", &alpine, true),
            ("docker.io/alpine", &alpine, true),
            ("index.docker.io/library/alpine", &alpine, true),
            ("docker.io/**", &alpine, true),
            ("docker.io/*", &alpine, true),
            ("docker.io/*", &image("docker.io", "acme/x", "1", ""), false),
            ("**", &alpine, true),
            ("**:3.20", &alpine, true),
            ("**:3*", &digest_only, false),
            ("**/alpine", &squatter, true),
            ("registry.acme.example/**", &ours, true),
            ("REGISTRY.acme.example/**", &ours, true),
            ("registry.acme.example/**", &port, false),
            ("registry.acme.example:5000/**", &port, true),
            ("registry.acme.example/**", &fake, false),
            ("registry.acme.example/tools/build", &ours, true),
            ("registry.acme.example/*", &ours, false),
            ("*.acme.example/**", &ours, true),
            ("tools/build", &ours, false),
            ("alp**", &alpine, true),
            ("registry.**/build", &ours, true),
        ] {
            let found = ImagePattern::new(pattern).unwrap().matches(image);
            assert_eq!(found, expected, "{pattern} on {image:?}");
        }
    }

    #[test]
    fn a_pattern_that_may_mean_two_things_is_refused() {
        for pattern in [
            "*",
            "*:latest",
            "*/alpine",
            "reg*/x",
            "reg**/x",
            "registry.acme.example",
            "alpine:",
            "@sha256:1",
            ":1",
            "a[b]",
        ] {
            assert!(ImagePattern::new(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn an_image_without_its_parts_is_not_known() {
        assert!(is_unresolved(&Image { name: "alpine".into(), ..Image::default() }));
        assert!(!is_unresolved(&image("docker.io", "library/alpine", "3.20", "")));
    }
}
