//! References to images, as the grammar of `distribution` has them. Read by hand: the regular expression of that grammar, with
//! its counted repetitions, took more time than anything else about a job.

/// A reference in its parts, of which the registry and its default namespace are filled in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) tag: Option<String>,
    pub(super) digest: Option<String>,
}

const HUB: &str = "docker.io";
const HUB_BEFORE: &str = "index.docker.io";
/// Longest repository, in bytes.
const REPOSITORY_MAX: usize = 255;
/// Longest tag, in bytes.
const TAG_MAX: usize = 128;

/// Reads a reference; `None` is none, or has a digest of another kind than SHA-2.
pub(super) fn read(text: &str) -> Option<Reference> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon before a slash is that of a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if !is_name(name) || !tag.is_none_or(is_tag) || !digest.is_none_or(is_digest) {
        return None;
    }
    let (registry, repository) = with_registry(name);
    if repository.len() > REPOSITORY_MAX {
        return None;
    }
    let tag = tag.or(if digest.is_none() { Some("latest") } else { None });
    Some(Reference { registry, repository, tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
}

/// The registry and the repository of a name; Docker's own where it names none.
fn with_registry(name: &str) -> (String, String) {
    let named = name.split_once('/').filter(|(first, _)| first.contains(['.', ':']) || *first == "localhost");
    let (registry, repository) = named.unwrap_or((HUB, name));
    let registry = if registry == HUB_BEFORE { HUB } else { registry };
    let repository = match registry == HUB && !repository.contains('/') {
        true => format!("library/{repository}"),
        false => repository.to_owned(),
    };
    (registry.to_owned(), repository)
}

fn is_name(name: &str) -> bool {
    match name.split_once('/') {
        None => is_component(name),
        Some((first, rest)) => (is_component(first) || is_host(first)) && rest.split('/').all(is_component),
    }
}

/// Lower-case letters and digits, with a dot, one or two underscores, or any number of dashes between them.
fn is_component(text: &str) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let separates = |run: &[u8]| matches!(run, b"." | b"_" | b"__") || run.iter().all(|byte| *byte == b'-');
    bytes.first().is_some_and(is_letter) && bytes.last().is_some_and(is_letter) && bytes.split(is_letter).all(separates)
}

/// A name of DNS or an address of IPv4, with or without a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    port.is_none_or(is_port) && host.split('.').all(is_label)
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= TAG_MAX
        && bytes.first().is_some_and(is_word)
        && bytes.iter().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use oci_spec::distribution::Reference as Theirs;
    use proptest::prelude::*;

    use super::*;

    fn theirs(text: &str) -> Option<Reference> {
        let theirs: Theirs = text.parse().ok()?;
        Some(Reference {
            registry: theirs.registry().to_owned(),
            repository: theirs.repository().to_owned(),
            tag: theirs.tag().map(str::to_owned),
            digest: theirs.digest().map(str::to_owned),
        })
    }

    /// Made of what references are made of, so that many are ones and the rest nearly.
    fn nearly_a_reference() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            4 => "[a-z0-9]{1,4}",
            1 => "[A-Za-z0-9-]{1,4}",
            1 => prop::sample::select(vec!["localhost", "docker.io", "index.docker.io", "library", "latest"])
                .prop_map(str::to_owned),
            3 => prop::sample::select(vec!["/", "/", ".", "_", "__", "___", "-", "--", ":", ":5000", "@", "..", "._"])
                .prop_map(str::to_owned),
        ];
        let digest = prop_oneof![
            6 => Just(String::new()),
            1 => "@sha256:[a-f0-9]{64}",
            1 => "@sha(256|384|512|1):[a-fA-F0-9]{63,65}",
            1 => "@sha(384|512):([a-f0-9]{96}|[a-f0-9]{128})",
            1 => "@[a-z+.]{1,5}:[a-g0-9]{30,66}",
        ];
        (prop::collection::vec(part, 0..9), digest).prop_map(|(parts, digest)| parts.concat() + &digest)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn it_reads_what_oci_spec_reads(text in nearly_a_reference()) {
            prop_assert_eq!(read(&text), theirs(&text));
        }

        #[test]
        fn it_refuses_what_oci_spec_refuses(text in "[a-cA0-1._:/@+ -]{0,12}") {
            prop_assert_eq!(read(&text), theirs(&text));
        }
    }

    #[test]
    fn lengths_have_the_same_limits() {
        for length in [127, 128, 129, 254, 255, 256] {
            for text in [format!("a:{}", "t".repeat(length)), format!("x.y/{}", "r".repeat(length)), "r".repeat(length)]
            {
                assert_eq!(read(&text), theirs(&text), "{length}");
            }
        }
    }
}
