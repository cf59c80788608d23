//! How servers read paths: plain models of some that exist, each written without a look at `path.rs`.

/// `/a/b` with dots resolved as RFC 3986 has it: an empty segment is a segment.
fn resolve(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.trim_start_matches('/').split('/') {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

fn merge(path: &str) -> String {
    let mut merged = path.to_owned();
    while merged.contains("//") {
        merged = merged.replace("//", "/");
    }
    merged
}

fn decode(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let pair = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.filter(|_| first == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn without_parameters(path: &str) -> String {
    let names: Vec<_> = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    names.join("/")
}

/// What such servers take the path for.
pub(super) fn readings(path: &str) -> Vec<String> {
    let slashes = |path: &str| path.replace('\\', "/");
    let once = decode(path);
    let twice = decode(&once);
    vec![
        path.to_owned(),
        resolve(path),
        resolve(&merge(path)),
        // nginx, and Go's mux.
        resolve(&merge(&once)),
        merge(&resolve(&once)),
        merge(&once),
        // A proxy that cleans, before a server that decodes.
        decode(&resolve(path)),
        resolve(&merge(&decode(&resolve(&merge(path))))),
        // One that decodes, before one that decodes.
        resolve(&merge(&twice)),
        resolve(&merge(&decode(&resolve(&merge(&once))))),
        twice.clone(),
        // Tomcat's way, and Windows'.
        resolve(&merge(&without_parameters(&once))),
        resolve(&merge(&without_parameters(path))),
        resolve(&merge(&slashes(&once))),
        resolve(&merge(&slashes(&twice))),
        without_parameters(&resolve(&once)),
    ]
}

/// Whether GitLab, reading that, hands out a job.
pub(super) fn is_job_request(reading: &str) -> bool {
    let reading = merge(reading).to_ascii_lowercase();
    let reading = reading.trim_end_matches('/');
    let rest = reading.strip_prefix("/api/v4/jobs/request");
    rest.is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix('.').is_some_and(|form| form == "json" || form == "txt")
    })
}

/// Whether GitLab's own parts are asked.
pub(super) fn is_internal(reading: &str) -> bool {
    let reading = merge(reading).to_ascii_lowercase();
    reading.starts_with("/api/v4/internal/")
}
