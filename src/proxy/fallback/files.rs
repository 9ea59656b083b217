//! Files below the process's root, by tower-http's ServeDir: types, ETag, Last-Modified, conditions, ranges, files compressed
//! beforehand.
//!
//! Ours are which file is meant, and that nothing outside of the root is reached. Files are opened and read on the runtime's few
//! threads for what blocks, never on a worker's own.

mod beneath;

use std::{cell::Cell, io, path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request};
use http_body_util::{Either, Full};
use tokio::time::Instant;
use tower_http::services::fs::{ServeDir, ServeFileSystemResponseBody};

use crate::{
    proxy::{answer, error::Reason, select::FoundRule},
    routing::{
        fallback::StaticFiles,
        filter::{below, with_query},
    },
};
use beneath::Beneath;

/// A file's bytes, or a line of text.
pub type Body = Either<ServeFileSystemResponseBody, Full<Bytes>>;

/// Answers with a file.
///
/// # Errors
/// There is no root, or it cannot be read.
pub async fn serve(
    root: Option<&Path>,
    files: &StaticFiles,
    found: &FoundRule,
    request: &request::Parts,
    complaints: &Complaints,
) -> Result<Response<Body>, Reason> {
    let Some(root) = root else {
        complaints.say(|| tracing::warn!("a route serves files, and there is no --static-root: such requests are answered 500"));
        return Err(Reason::StaticUnavailable);
    };
    let unreadable = |error: io::Error| {
        complaints.say(|| tracing::warn!(root = %root.display(), %error, "a file cannot be read: the request is answered 500"));
        Reason::StaticUnavailable
    };
    let served = match file(files, found) {
        Some(file) => read(root, &file, request).await.map_err(unreadable)?,
        None => None,
    };
    let served = match (served, &files.spa_fallback) {
        (None, Some(fallback)) => read(root, &joined(&files.path, fallback), request)
            .await
            .map_err(unreadable)?,
        (served, _) => served,
    };
    let Some(response) = served else {
        return Ok(not_found());
    };
    let mut response = response.map(Either::Left);
    match response.status() {
        StatusCode::TEMPORARY_REDIRECT => slash_added(response.headers_mut(), found, request),
        // What the whole file would have (RFC 9110, section 15.4.5).
        StatusCode::NOT_MODIFIED => {
            let vary = HeaderValue::from_static("accept-encoding");
            response.headers_mut().insert(header::VARY, vary);
        }
        _ => {}
    }
    name_charset(response.headers_mut());
    Ok(response)
}

/// Says what is wrong with the root, but not for each request.
#[derive(Debug, Default)]
pub struct Complaints(Cell<Option<Instant>>);

impl Complaints {
    fn say(&self, say: impl FnOnce()) {
        if self.0.get().is_none_or(|last| last.elapsed() >= BETWEEN_COMPLAINTS) {
            self.0.set(Some(Instant::now()));
            say();
        }
    }
}

/// The file that is meant, from the root on; `None`: none can be.
fn file(files: &StaticFiles, found: &FoundRule) -> Option<String> {
    let below = below(&found.path, &found.matched_path)?;
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
async fn read(root: &Path, file: &str, request: &request::Parts) -> io::Result<Found> {
    let mut headers = request.headers.clone();
    if let Some(condition) = headers.remove(header::IF_RANGE)
        && headers.contains_key(header::RANGE)
        && !still_is(&condition, root, file, &headers).await?
    {
        headers.remove(header::RANGE);
    }
    ask(root, file, request.method.clone(), headers).await
}

/// Whether the file is the one of which a client has a part already (RFC 9110, section 13.1.5). ServeDir does not look at that.
async fn still_is(condition: &HeaderValue, root: &Path, file: &str, headers: &HeaderMap) -> io::Result<bool> {
    let mut alone = HeaderMap::new();
    if let Some(encodings) = headers.get(header::ACCEPT_ENCODING) {
        alone.insert(header::ACCEPT_ENCODING, encodings.clone());
    }
    let now = ask(root, file, Method::HEAD, alone).await?;
    let is = |name: &header::HeaderName| now.as_ref().and_then(|now| now.headers().get(name)) == Some(condition);
    Ok(is(&header::ETAG) || is(&header::LAST_MODIFIED))
}

type Found = Option<Response<ServeFileSystemResponseBody>>;

async fn ask(root: &Path, file: &str, method: Method, headers: HeaderMap) -> io::Result<Found> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::try_from(file).map_err(io::Error::other)?;
    *request.headers_mut() = headers;
    let mut files = ServeDir::with_backend("", Beneath::new(root))
        .precompressed_br()
        .precompressed_zstd()
        .precompressed_gzip()
        .ignore_multi_range_requests(true)
        .with_buf_chunk_size(PIECE);
    match files.try_call(request).await {
        Ok(response) if response.status() == StatusCode::NOT_FOUND => Ok(None),
        Ok(response) => Ok(Some(response)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | NotADirectory)
}

/// A folder was asked for without the slash at its end, which links from its index need.
fn slash_added(headers: &mut HeaderMap, found: &FoundRule, request: &request::Parts) {
    let path = format!("{}/", found.path);
    match answer::location_of(&with_query(&path, request.uri.query())) {
        Some(location) => headers.insert(header::LOCATION, location),
        None => headers.remove(header::LOCATION),
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

/// Bytes of a file that are read at once: what a client that stops reading can cost, a few times over.
const PIECE: usize = 32 * 1024;

const BETWEEN_COMPLAINTS: Duration = Duration::from_secs(60);

/// The one name with a dot in front that is for everybody (RFC 8615).
const WELL_KNOWN: &str = ".well-known";

/// Escaped separators: a rule that matched by elements did not see them as such.
const SEPARATORS: [&str; 2] = ["%2F", "%5C"];
