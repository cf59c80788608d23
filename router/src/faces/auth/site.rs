use std::net::SocketAddr;

use http::{HeaderMap, Uri, header, uri::Authority};

/// The names under which trial mode answers. A web page can make a browser send requests to loopback, and by DNS rebinding
/// even read the answers; its requests then carry an `Origin`, or the page's own host.
#[derive(Debug)]
pub(super) struct Site {
    hosts: Vec<String>,
    port: u16,
    external: Option<(String, u16)>,
}

/// Why trial mode refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    /// A browser sent it on behalf of a page.
    Origin,
    /// It is for another host, or for none.
    Host,
}

impl Site {
    pub(super) fn new(address: SocketAddr, external_url: Option<&str>) -> Self {
        let ip = match address.ip() {
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            std::net::IpAddr::V4(ip) => ip.to_string(),
        };
        let mut hosts: Vec<_> = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).into();
        hosts.push(ip);
        let external = external_url.and_then(|url| {
            let uri: Uri = url.parse().ok()?;
            let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
            Some((uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(default)))
        });
        Self { hosts, port: address.port(), external }
    }

    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Foreign> {
        if headers.contains_key(header::ORIGIN) {
            return Err(Foreign::Origin);
        }
        let hosts: Vec<_> = headers.get_all(header::HOST).iter().collect();
        if hosts.len() > 1 || (hosts.is_empty() && uri.authority().is_none()) {
            return Err(Foreign::Host);
        }
        if uri.authority().is_some_and(|authority| !self.is_ours(authority)) {
            return Err(Foreign::Host);
        }
        for host in hosts {
            let authority: Option<Authority> = host.to_str().ok().and_then(|host| host.parse().ok());
            if !authority.is_some_and(|authority| self.is_ours(&authority)) {
                return Err(Foreign::Host);
            }
        }
        Ok(())
    }

    fn is_ours(&self, authority: &Authority) -> bool {
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host().to_ascii_lowercase();
        let port = match authority.port() {
            Some(port) => Some(port.as_u16()),
            // `host:` or `host:70000` is no host and port.
            None if authority.as_str().len() > authority.host().len() => return false,
            None => None,
        };
        let known = self.hosts.contains(&host) && port.unwrap_or(80) == self.port;
        // The external URL may be a proxy's, with TLS or without.
        let external =
            self.external.as_ref().is_some_and(|(name, own)| *name == host && port.is_none_or(|port| port == *own));
        known || external
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uri: &str, headers: &[(header::HeaderName, &str)]) -> Result<(), Foreign> {
        let site = Site::new("127.0.0.2:7400".parse().unwrap(), Some("https://jobgate.example"));
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        site.check(&uri.parse().unwrap(), &headers)
    }

    #[test]
    fn only_our_own_names_are_answered() {
        for host in [
            "localhost:7400",
            "LOCALHOST:7400",
            "127.0.0.1:7400",
            "127.0.0.2:7400",
            "[::1]:7400",
            "jobgate.example",
            "jobgate.example:443",
        ] {
            assert_eq!(check("/v1/jobs", &[(header::HOST, host)]), Ok(()), "{host}");
            assert_eq!(check(&format!("http://{host}/v1/jobs"), &[]), Ok(()), "{host} as :authority");
        }
        for host in [
            "evil.example",
            "evil.example:7400",
            "localhost",
            "localhost:7401",
            "localhost.evil.example:7400",
            "user@localhost:7400",
            "127.0.0.1:7400@evil.example",
            "jobgate.example:7400",
            "",
            "localhost:",
        ] {
            assert_eq!(check("/v1/jobs", &[(header::HOST, host)]), Err(Foreign::Host), "{host}");
        }
    }

    #[test]
    fn a_request_without_or_with_two_hosts_or_for_another_authority_is_foreign() {
        assert_eq!(check("/", &[]), Err(Foreign::Host));
        let twice = [(header::HOST, "localhost:7400"), (header::HOST, "localhost:7400")];
        let site = Site::new("127.0.0.1:7400".parse().unwrap(), None);
        let mut headers = HeaderMap::new();
        for (name, value) in twice {
            headers.append(name, value.parse().unwrap());
        }
        assert_eq!(site.check(&"/".parse().unwrap(), &headers), Err(Foreign::Host));
        assert_eq!(check("http://evil.example/", &[(header::HOST, "localhost:7400")]), Err(Foreign::Host));
    }

    #[test]
    fn any_origin_is_foreign() {
        for origin in ["http://evil.example", "null", "http://localhost:7400"] {
            let headers = [(header::HOST, "localhost:7400"), (header::ORIGIN, origin)];
            assert_eq!(check("/", &headers), Err(Foreign::Origin), "{origin}");
        }
    }
}
