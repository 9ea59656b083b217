//! Files below the process's root, by tower-http's ServeDir: types, ETag, Last-Modified, conditions, ranges, files compressed
//! beforehand.
//!
//! Ours are which file is meant, and that nothing outside of the root is reached. Files are opened and read on the runtime's few
//! threads for what blocks, never on a worker's own.

mod beneath;

use std::{io, path::Path};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header, request};
use http_body_util::{Either, Full};
use tower_http::services::fs::{ServeDir, ServeFileSystemResponseBody};

use crate::{
    proxy::error::Reason,
    routing::{fallback::StaticFiles, filter::below},
};
use beneath::Beneath;

/// A file's bytes, or a line of text.
pub type Body = Either<ServeFileSystemResponseBody, Full<Bytes>>;

/// What a client asked for.
#[derive(Debug)]
pub struct Asked<'a> {
    pub parts: &'a request::Parts,
    /// In normal form.
    pub path: &'a str,
    /// The prefix that matched.
    pub matched: &'a str,
}

/// Answers with a file.
///
/// # Errors
/// There is no root, or it cannot be read.
pub async fn serve(root: Option<&Path>, files: &StaticFiles, asked: &Asked<'_>) -> Result<Response<Body>, Reason> {
    let Some(root) = root else {
        tracing::debug!("a route serves files, and there is no --static-root");
        return Err(Reason::StaticUnavailable);
    };
    let found = match file(files, asked) {
        Some(file) => read(root, &file, asked).await?,
        None => None,
    };
    let found = match (found, &files.spa_fallback) {
        (None, Some(fallback)) => read(root, &joined(&files.path, fallback), asked).await?,
        (found, _) => found,
    };
    let Some(response) = found else {
        return Ok(not_found());
    };
    let mut response = response.map(Either::Left);
    if response.status() == StatusCode::TEMPORARY_REDIRECT {
        slash_added(response.headers_mut(), asked);
    }
    name_charset(response.headers_mut());
    Ok(response)
}

/// The file that is meant, from the root on; `None`: none can be.
fn file(files: &StaticFiles, asked: &Asked<'_>) -> Option<String> {
    let below = below(asked.path, asked.matched)?;
    let names = below.strip_prefix('/').unwrap_or(below);
    let (folder, last) = names.rsplit_once('/').unwrap_or(("", names));
    let is_hidden = |name: &str| name.starts_with('.') && name != WELL_KNOWN;
    let is_odd = |name: &str| name.is_empty() || is_hidden(name) || SEPARATORS.iter().any(|separator| name.contains(separator));
    if (names.contains('/') && folder.split('/').any(is_odd)) || (!last.is_empty() && is_odd(last)) {
        return None;
    }
    let name = joined(&files.path, names);
    Some(if below.ends_with('/') || name == "/" {
        format!("{}/{}", name.trim_end_matches('/'), files.index)
    } else {
        name
    })
}

/// `/a/b`, where either may be empty.
fn joined(a: &str, b: &str) -> String {
    match (a, b) {
        ("", b) => format!("/{b}"),
        (a, "") => format!("/{a}"),
        (a, b) => format!("/{a}/{b}"),
    }
}

/// What there is by a name; `None`: nothing.
async fn read(root: &Path, file: &str, asked: &Asked<'_>) -> Result<Option<Response<ServeFileSystemResponseBody>>, Reason> {
    let mut request = Request::new(());
    *request.method_mut() = asked.parts.method.clone();
    *request.uri_mut() = Uri::try_from(file).map_err(|_| Reason::MalformedRequest)?;
    *request.headers_mut() = asked.parts.headers.clone();
    let mut files = ServeDir::with_backend("", Beneath::new(root))
        .precompressed_br()
        .precompressed_zstd()
        .precompressed_gzip()
        .ignore_multi_range_requests(true);
    match files.try_call(request).await {
        Ok(response) if response.status() == StatusCode::NOT_FOUND => Ok(None),
        Ok(response) => Ok(Some(response)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => {
            tracing::warn!(root = %root.display(), file, %error, "a file cannot be read");
            Err(Reason::StaticUnavailable)
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | NotADirectory)
}

/// A folder was asked for without the slash at its end, which links from its index need.
fn slash_added(headers: &mut HeaderMap, asked: &Asked<'_>) {
    let query = asked.parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    match HeaderValue::from_str(&format!("{}/{query}", asked.path)) {
        Ok(location) => headers.insert(header::LOCATION, location),
        Err(_) => headers.remove(header::LOCATION),
    };
}

/// Texts are in UTF-8, these days.
fn name_charset(headers: &mut HeaderMap) {
    let Some(Ok(kind)) = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str) else {
        return;
    };
    if kind.starts_with("text/")
        && !kind.contains(';')
        && let Ok(kind) = HeaderValue::from_str(&format!("{kind}; charset=utf-8"))
    {
        headers.insert(header::CONTENT_TYPE, kind);
    }
}

fn not_found() -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::from("There is no such file.\n")));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The one name with a dot in front that is for everybody (RFC 8615).
const WELL_KNOWN: &str = ".well-known";

/// Escaped separators: a rule that matched by elements did not see them as such.
const SEPARATORS: [&str; 2] = ["%2F", "%5C"];
