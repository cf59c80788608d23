//! Headers on their way to GitLab and back.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// About one connection, not about the message. Those that `Connection` names belong to them, and all `Proxy-…`.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings"];

/// What a proxy tells the server behind it, and therefore nobody else may: who asks, what was asked for, and how GitLab's
/// own parts know each other. `Expect` is answered here, and `Host` is that of GitLab.
const OF_PROXIES: [&str; 15] = [
    "expect",
    "host",
    "forwarded",
    "x-real-ip",
    "client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-gitlab-ratelimit-bypass",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];
const OF_PROXIES_BELOW: [&str; 4] = ["x-forwarded-", "gitlab-", "x-sendfile", "x-accel-"];

/// Removes what must not reach GitLab, and says who asks. What is left stays as often and in the order it came.
pub(crate) fn for_gitlab(headers: &mut HeaderMap, peer: IpAddr) {
    from_gitlab(headers);
    remove(headers, |name| {
        OF_PROXIES.contains(&name) || OF_PROXIES_BELOW.iter().any(|beginning| name.starts_with(beginning))
    });
    // Nothing of an honest client, and to such servers the length of the body.
    headers.remove("content_length");
    // Facts 7.28: GitLab shows the address of a runner. An address is always a header value.
    if let Ok(peer) = HeaderValue::from_str(&peer.to_canonical().to_string()) {
        headers.insert(X_FORWARDED_FOR, peer);
    }
}

/// Removes what was meant for this connection only.
pub(crate) fn from_gitlab(headers: &mut HeaderMap) {
    let named: Vec<_> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    remove(headers, |name| HOP_BY_HOP.contains(&name) || name.starts_with("proxy-"));
}

fn remove(headers: &mut HeaderMap, is_bad: impl Fn(&str) -> bool) {
    // Servers below CGI's rules, GitLab's among them, see `_` and `-` as one.
    let bad: Vec<_> = headers.keys().filter(|name| is_bad(&with_hyphens(name.as_str()))).cloned().collect();
    for name in bad {
        headers.remove(name);
    }
}

fn with_hyphens(name: &str) -> Cow<'_, str> {
    if name.contains('_') { name.replace('_', "-").into() } else { name.into() }
}
