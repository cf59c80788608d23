use std::time::Duration;

use jobgate_yaml::{Fields, Node};

use super::{ControllerConfig, ControllerKind, ControllerState, Dial, OnFailure, Secret, load::Loader};
use crate::{path::Scope, view::Expose};

/// Longest `timeout` of a controller: that of a whole admission.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(25);

pub(super) fn read_controller(loader: &Loader<'_, '_>, node: &Node) -> Option<ControllerConfig> {
    let reader = loader.reader;
    let mut fields = reader.fields(node, "a controller")?;
    let name = fields.require("name").and_then(|node| loader.identifier(node));
    let scope = fields.require("scope").and_then(|node| {
        let text = reader.string(node)?;
        text.parse::<Scope>().map_err(|error| reader.fault(node.place, error.to_string())).ok()
    });
    let state = fields.take("state").map_or(Some(ControllerState::Enabled), |node| {
        let states = [
            ("enabled", ControllerState::Enabled),
            ("dry_run", ControllerState::DryRun),
            ("disabled", ControllerState::Disabled),
        ];
        reader.choice(node, &states)
    });
    let kind = read_kind(loader, &mut fields);
    let timeout =
        fields.take("timeout").map_or(Some(Duration::from_secs(2)), |node| loader.span(node, LONGEST_TIMEOUT));
    let on_failure_place = fields.place_of("on_failure");
    let on_failure = fields.take("on_failure").map_or(Some(OnFailure::Reject), |node| {
        let choices = [("reject", OnFailure::Reject), ("wait", OnFailure::Wait), ("admit", OnFailure::Admit)];
        reader.choice(node, &choices)
    });
    let expose = fields.take("expose").map_or(Some(Expose::default()), |node| read_expose(loader, node));
    fields.finish();

    let (kind, on_failure) = (kind?, on_failure?);
    if on_failure == OnFailure::Admit && matches!(kind, ControllerKind::Policy(_)) {
        let message = "`on_failure: admit` is for controllers over gRPC only";
        let help = "a policy in this process is always reachable; what fails in it must not admit";
        reader.fault_with_help(on_failure_place, message, help);
        return None;
    }
    Some(ControllerConfig {
        name: name?.into(),
        scope: scope?,
        state: state?,
        kind,
        timeout: timeout?,
        on_failure,
        expose: expose?,
    })
}

/// Exactly one of `policy`, `grpc`, `attach`.
fn read_kind(loader: &Loader<'_, '_>, fields: &mut Fields<'_, '_, '_>) -> Option<ControllerKind> {
    let reader = loader.reader;
    let (policy, grpc, attach) = (fields.take("policy"), fields.take("grpc"), fields.take("attach"));
    let (tls, token_file, insecure) = (fields.take("tls"), fields.take("token_file"), fields.take("insecure"));
    if grpc.is_none() {
        for (key, node) in [("tls", tls), ("token_file", token_file), ("insecure", insecure)] {
            if let Some(node) = node {
                reader.fault(node.place, format!("`{key}` belongs to `grpc`, which is not here"));
            }
        }
    }
    match (policy, grpc, attach) {
        (Some(node), None, None) => {
            let paths = reader.strings(node)?;
            if paths.is_empty() {
                reader.fault(node.place, "`policy` names no file or directory");
                return None;
            }
            Some(ControllerKind::Policy(paths.into_iter().map(|(path, _)| loader.folder.join(path)).collect()))
        }
        (None, Some(node), None) => read_dial(loader, node, tls, token_file, insecure).map(ControllerKind::Dialled),
        (None, None, Some(node)) => {
            let mut fields = reader.fields(node, "`attach`")?;
            let token = fields.require("token_file").and_then(|node| loader.secret_file(node));
            fields.finish();
            Some(ControllerKind::Attached { token: token? })
        }
        _ => {
            let help = "`policy: PATH` (in this process), `grpc: URL` (the router dials it), `attach: { token_file: … }` (it dials in)";
            reader.fault_with_help(fields.place(), "a controller has exactly one of `policy`, `grpc`, `attach`", help);
            None
        }
    }
}

fn read_dial(
    loader: &Loader<'_, '_>,
    node: &Node,
    tls: Option<&Node>,
    token_file: Option<&Node>,
    insecure: Option<&Node>,
) -> Option<Dial> {
    let reader = loader.reader;
    let insecure = insecure.map_or(Some(false), |node| reader.boolean(node))?;
    let nodes = match &node.value {
        jobgate_yaml::Value::List(nodes) if !nodes.is_empty() => nodes.iter().collect(),
        _ => vec![node],
    };
    let urls: Vec<_> = nodes
        .into_iter()
        .map(|node| {
            let url = loader.url(node, &["http", "https"])?;
            if url.starts_with("http://") && !insecure && !is_loopback(&url) {
                let message = format!("`{url}` would carry job data over the network in clear");
                reader.fault_with_help(node.place, message, "use `https://`, or say `insecure: true` on this entry");
                return None;
            }
            Some(url)
        })
        .collect();
    if let (Some(tls), Some(Some(url))) =
        (tls, urls.iter().find(|url| url.as_ref().is_some_and(|url| url.starts_with("http://"))))
    {
        let message = format!("`tls` is of no use with `{url}`");
        reader.fault_with_help(tls.place, message, "use `https://`, or remove `tls`");
        return None;
    }
    let token = token_file.map(|node| loader.secret_file(node));
    let (ca, identity, server_name) = tls.map_or(Some((None, None, None)), |node| read_client_tls(loader, node))?;
    Some(Dial {
        urls: urls.into_iter().collect::<Option<_>>()?,
        ca,
        identity,
        server_name,
        token: token.map_or(Some(None), |token| token.map(Some))?,
    })
}

type ClientTls = (Option<Vec<u8>>, Option<(Vec<u8>, Secret)>, Option<String>);

fn read_client_tls(loader: &Loader<'_, '_>, node: &Node) -> Option<ClientTls> {
    let reader = loader.reader;
    let mut fields = reader.fields(node, "`tls`")?;
    let ca = fields.take("ca").map(|node| loader.bytes_file(node));
    let cert = fields.take("cert").map(|node| loader.bytes_file(node));
    let key = fields.take("key").map(|node| loader.bytes_file(node));
    let server_name = fields.take("server_name").map(|node| reader.name(node));
    let place = fields.place();
    fields.finish();
    let ca = ca.map_or(Some(None), |ca| ca.map(Some))?;
    let server_name = server_name.map_or(Some(None), |name| name.map(|name| Some(name.to_owned())))?;
    let identity = match (cert, key) {
        (None, None) => None,
        (Some(cert), Some(key)) => {
            let Ok(key) = String::from_utf8(key?) else {
                reader.fault(place, "`key` is not a PEM file");
                return None;
            };
            Some((cert?, Secret::new(key)))
        }
        _ => {
            reader.fault(place, "`cert` and `key` go together");
            return None;
        }
    };
    Some((ca, identity, server_name))
}

fn read_expose(loader: &Loader<'_, '_>, node: &Node) -> Option<Expose> {
    let words = loader.reader.strings(node)?;
    let unknown = match Expose::parse(words.iter().map(|(word, _)| *word)) {
        Ok(expose) => return Some(expose),
        Err(unknown) => unknown,
    };
    for error in unknown {
        loader.reader.fault(node.place, error.to_string());
    }
    None
}

/// Whether a URL's host is this machine, by its literal address or the name `localhost`.
pub(super) fn is_loopback(url: &str) -> bool {
    let uri: Option<http::Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
