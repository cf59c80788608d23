//! What a request is about, told from its path.
//!
//! A path can be spelled in many ways, and servers differ in how they read it: how often they decode, whether `//` is `/`,
//! whether they resolve dots before or after. Nothing is assumed about GitLab or the proxies before it. All readings are
//! made, and the worst of them counts: a job request in any reading is a job request, and what only some of them take for
//! GitLab's interface is refused.

use std::collections::HashSet;

/// Servers decode once; proxies in front of them may decode again.
const DECODINGS: usize = 3;
/// An honest path has one reading, or two where it names things with a `/`. The limit bounds what a long path of oddities
/// costs.
const READINGS: usize = 64;

/// What a request asks for, whatever its method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A job.
    JobRequest,
    /// Where the job router is.
    Discovery,
    /// What GitLab's own parts tell each other. Never passed on.
    Internal,
    /// Something of one job, by a runner that has it.
    Job {
        /// Its number; `None` where the path has none.
        id: Option<i64>,
        /// What of it.
        call: JobCall,
    },
    /// Anything else of GitLab's interface.
    Other,
}

/// What of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobCall {
    /// `/jobs/:id`: its state.
    Update,
    /// `/jobs/:id/trace`: its log.
    Trace,
    /// Artifacts and the rest.
    Other,
}

/// A path that means nothing, or different things to different servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path of this request cannot be read in one way: write it plainly, without dots, and encoded once")]
pub(crate) struct Unreadable;

/// What one reading says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Elsewhere,
    /// Our own prefix is before it, in a spelling that cannot be cut off.
    Prefixed(Target),
    Below(Target),
}

/// What the path of a request target is about, and the part of it that GitLab is to see, byte for byte. `None`: it is not
/// below `/api/v4/`. The prefix is the path of our own URL: it may be there or not, since a proxy may have cut it off.
///
/// # Errors
///
/// [`Unreadable`] is answered with 400.
pub(crate) fn classify<'a>(path: &'a str, prefix: &str) -> Result<Option<(Target, &'a str)>, Unreadable> {
    if let Some(rest) = path.strip_prefix(prefix).filter(|rest| !prefix.is_empty() && rest.starts_with('/'))
        && let Some(target) = read(rest, prefix)?
    {
        return Ok(Some((target, rest)));
    }
    Ok(read(path, prefix)?.map(|target| (target, path)))
}

pub(super) fn read(path: &str, prefix: &str) -> Result<Option<Target>, Unreadable> {
    let prefix: Vec<_> = prefix.split('/').filter(|segment| !segment.is_empty()).map(str::as_bytes).collect();
    if is_plain(path) {
        let segments: Vec<_> = path.split('/').map(str::as_bytes).collect();
        return worst(&[target(&segments, &prefix)]);
    }
    read_all(path, &prefix)
}

/// Whether there is but one way to read a path: almost all are so.
fn is_plain(path: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-_".contains(byte);
    path.starts_with('/') && path.bytes().all(|byte| plain(&byte)) && !path.contains("//")
}

/// All readings there are.
pub(super) fn read_all(path: &str, prefix: &[&[u8]]) -> Result<Option<Target>, Unreadable> {
    if !is_well_encoded(path.as_bytes()) {
        return Err(Unreadable);
    }
    let mut known = HashSet::from([path.as_bytes().to_vec()]);
    let mut layer = vec![path.as_bytes().to_vec()];
    let mut found = Vec::new();
    for round in 0..=DECODINGS {
        let mut next = Vec::new();
        for text in &layer {
            if text.contains(&0) {
                return Err(Unreadable);
            }
            for style in Style::of(text) {
                let segments = style.segments(text)?;
                found.push(target(&segments, prefix));
                if found.len() > READINGS {
                    return Err(Unreadable);
                }
                let text = segments.join(&b'/');
                let decoded = decode(&text);
                if round == DECODINGS && decoded != text {
                    return Err(Unreadable);
                }
                if known.insert(decoded.clone()) {
                    next.push(decoded);
                }
            }
        }
        layer = next;
    }
    worst(&found)
}

fn worst(found: &[Reading]) -> Result<Option<Target>, Unreadable> {
    for bad in [Target::JobRequest, Target::Internal] {
        if found.iter().any(|reading| [Reading::Below(bad), Reading::Prefixed(bad)].contains(reading)) {
            return Ok(Some(bad));
        }
    }
    if found.iter().all(|reading| *reading == Reading::Elsewhere) {
        return Ok(None);
    }
    let all_below = found.iter().all(|reading| matches!(reading, Reading::Below(_)));
    match found.last() {
        // The last one is the one that went furthest.
        Some(Reading::Below(target)) if all_below => Ok(Some(*target)),
        _ => Err(Unreadable),
    }
}

fn target(segments: &[&[u8]], prefix: &[&[u8]]) -> Reading {
    let words: Vec<&[u8]> = segments.iter().map(|word| word.trim_ascii()).filter(|word| !word.is_empty()).collect();
    let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    let below = |words: &[&[u8]]| match words {
        [api, version, rest @ ..] if is(api, "api") && is(version, "v4") => Some(call(rest)),
        _ => None,
    };
    if let Some(target) = below(&words) {
        return Reading::Below(target);
    }
    let has_prefix = !prefix.is_empty() && words.len() >= prefix.len();
    let has_prefix = has_prefix && prefix.iter().zip(&words).all(|(own, word)| own.eq_ignore_ascii_case(word));
    let behind = words.get(prefix.len()..).filter(|_| has_prefix).and_then(below);
    behind.map_or(Reading::Elsewhere, Reading::Prefixed)
}

/// What is asked for below `/api/v4/`.
fn call(words: &[&[u8]]) -> Target {
    let word = |at: usize| match words[at].iter().position(|byte| *byte == b'.') {
        // `request.json` is `request`: GitLab takes the end for the form of the answer.
        Some(dot) if at + 1 == words.len() => words[at][..dot].trim_ascii(),
        _ => words[at],
    };
    let is = |at: usize, name: &str| word(at).eq_ignore_ascii_case(name.as_bytes());
    match words.len() {
        2 if is(0, "jobs") && is(1, "request") => Target::JobRequest,
        3 if is(0, "runners") && is(1, "router") && is(2, "discovery") => Target::Discovery,
        1.. if is(0, "internal") => Target::Internal,
        2 if is(0, "jobs") => Target::Job { id: number(word(1)), call: JobCall::Update },
        3 if is(0, "jobs") && is(2, "trace") => Target::Job { id: number(words[1]), call: JobCall::Trace },
        2.. if is(0, "jobs") => Target::Job { id: number(words[1]), call: JobCall::Other },
        _ => Target::Other,
    }
}

fn number(text: &[u8]) -> Option<i64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// How a server reads a path: each of these is done by some, and by others not.
#[derive(Clone, Copy)]
struct Style(u8);

impl Style {
    /// `\` is `/`.
    const BACKSLASH: u8 = 1;
    /// What follows a `;` in a segment is none of its name.
    const PARAMETERS: u8 = 2;
    /// What follows `?` or `#` is no path, though it was encoded.
    const CUT: u8 = 4;
    /// `//` is `/` before dots are resolved, so that `..` has no empty segment to take back.
    const MERGE: u8 = 8;
    /// `.` and `..` are resolved.
    const DOTS: u8 = 16;

    /// The styles that make a difference for this text; the last is all of them at once.
    fn of(text: &[u8]) -> impl Iterator<Item = Self> + use<> {
        let has = |bytes: &[u8]| text.iter().any(|byte| bytes.contains(byte));
        let pair = |second: u8| text.windows(2).any(|pair| b"/\\".contains(&pair[0]) && pair[1] == second);
        let mut differ = 0;
        for (style, matters) in [
            (Self::BACKSLASH, has(b"\\")),
            (Self::PARAMETERS, has(b";")),
            (Self::CUT, has(b"?#")),
            (Self::MERGE, pair(b'/') || has(b"\\;")),
            (Self::DOTS, pair(b'.')),
        ] {
            differ |= if matters { style } else { 0 };
        }
        (0..=differ).filter(move |style| style & !differ == 0).map(Self)
    }

    fn segments(self, text: &[u8]) -> Result<Vec<&[u8]>, Unreadable> {
        let does = |style| self.0 & style != 0;
        let end = text.iter().position(|byte| does(Self::CUT) && b"?#".contains(byte)).unwrap_or(text.len());
        let mut segments = Vec::new();
        for segment in text[..end].split(|byte| *byte == b'/' || (does(Self::BACKSLASH) && *byte == b'\\')).skip(1) {
            let name = segment.iter().position(|byte| does(Self::PARAMETERS) && *byte == b';');
            match &segment[..name.unwrap_or(segment.len())] {
                b"" if does(Self::MERGE) => {}
                b"." if does(Self::DOTS) => {}
                b".." if does(Self::DOTS) => drop(segments.pop().ok_or(Unreadable)?),
                name => segments.push(name),
            }
        }
        // `join` must begin with a slash.
        segments.insert(0, b"");
        Ok(segments)
    }
}

fn is_well_encoded(text: &[u8]) -> bool {
    let digits = |rest: &[u8]| rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit);
    text.iter().enumerate().all(|(at, byte)| *byte != b'%' || digits(&text[at + 1..]))
}

/// Decodes once. What is no escape stays as it is: a name may hold a `%`.
fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let escaped = if *first == b'%' { digit(0).zip(digit(1)) } else { None };
        let byte = escaped.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    decoded
}

/// Any text as a path: it is never passed on when a plain reading of it is a job request.
#[doc(hidden)]
pub fn fuzz_gitlab_path(path: &str) {
    for prefix in ["", "/gitlab"] {
        let Ok(Some((Target::Job { .. } | Target::Other, rest))) = classify(path, prefix) else { continue };
        assert!(path.ends_with(rest), "what is passed on is not what came");
        let mut text = rest.as_bytes().to_vec();
        for _ in 0..=DECODINGS {
            let mut plain: Vec<&[u8]> = Vec::new();
            for segment in text.split(|byte| *byte == b'/') {
                match segment {
                    b"" | b"." => {}
                    b".." => drop(plain.pop()),
                    segment => plain.push(segment),
                }
            }
            let plain = plain.join(&b'/').to_ascii_lowercase();
            assert!(!plain.starts_with(b"api/v4/internal/") && plain != b"api/v4/jobs/request", "{path}");
            text = decode(&text);
        }
    }
}
