//! Requests that go on to GitLab as they came, and answers that come back so.

use std::net::IpAddr;

use axum::{body::Body, response::Response};
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use hyper::body::{Body as _, Incoming};

use super::{
    answer,
    body::{self, Download, Waits},
    headers,
    upstream::{Outage, Upstream},
};

/// Passes a request on, with this path, and its answer back. Bodies of any size stream through; redirects are relayed.
pub(crate) async fn pass(upstream: &Upstream, request: Request<Body>, raw_path: &str, peer: IpAddr) -> Response<Body> {
    let method = request.method().clone();
    if [Method::CONNECT, Method::TRACE].contains(&method) {
        let mut response = answer::error(StatusCode::METHOD_NOT_ALLOWED, "this method is not passed on to GitLab");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE"));
        return response;
    }
    if request.headers().get_all(header::TRANSFER_ENCODING).iter().any(|coding| coding != "chunked") {
        return answer::error(StatusCode::NOT_IMPLEMENTED, "a body is sent as it is, or chunked");
    }
    let (parts, body) = request.into_parts();
    let Some(uri) = relative(&parts.uri, raw_path) else {
        return answer::error(StatusCode::BAD_REQUEST, "the path of this request cannot be read");
    };
    // A new request: what ours has beside its head is not for others.
    let (body, pace) = body::upload(body);
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = parts.headers;
    headers::for_gitlab(request.headers_mut(), peer);
    frame(&mut request);
    let halt = tokio::select! {
        biased;
        answered = upstream.send(request) => match answered {
            Ok(response) => return back(upstream, response, &method),
            Err(outage) => return refuse(upstream, &outage),
        },
        halt = pace.halted() => halt,
    };
    match halt {
        Waits::Client => answer::error(StatusCode::REQUEST_TIMEOUT, "nothing came of the request's body for 5 minutes"),
        Waits::GitLab | Waits::Answer => refuse(upstream, &upstream.silent()),
    }
}

/// A path, which may be the end of the URI's own, with the query of that.
fn relative(uri: &Uri, raw_path: &str) -> Option<Uri> {
    if uri.path() == raw_path {
        return uri.path_and_query().cloned().map(Uri::from);
    }
    let path = uri.query().map_or_else(|| raw_path.to_owned(), |query| format!("{raw_path}?{query}"));
    // A part of a path and its query are both again.
    Uri::try_from(path).ok()
}

/// How long the body is, or that nobody knows. Said by us, whatever the headers were: two servers that disagree about the
/// end of a request take the rest of it for another.
fn frame(request: &mut Request<Body>) {
    let (length, is_empty) = (request.body().size_hint().exact(), request.body().is_end_stream());
    let headers = request.headers_mut();
    match length {
        // No length at all says as much.
        Some(0) if !headers.contains_key(header::CONTENT_LENGTH) => {}
        Some(length) => drop(headers.insert(header::CONTENT_LENGTH, length.into())),
        None => {
            headers.remove(header::CONTENT_LENGTH);
            if !is_empty {
                // Said here since the client below does not expect a body of a GET.
                headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
    }
}

fn back(upstream: &Upstream, response: Response<Incoming>, method: &Method) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if parts.status.is_informational() {
        return refuse(upstream, &upstream.nonsense("it changes to another protocol, which nobody asked for"));
    }
    headers::from_gitlab(&mut parts.headers);
    let silent = *method == Method::HEAD || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&parts.status);
    let mut response = Response::new(Body::new(Download::new(body, silent)));
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    response
}

/// Never a 403 or a 404: those end a job.
pub(crate) fn refuse(upstream: &Upstream, outage: &Outage) -> Response<Body> {
    if let Some(before) = upstream.outages.pass() {
        tracing::warn!(before, "{outage}");
    }
    answer::unavailable(&outage.to_string())
}
