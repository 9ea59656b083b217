//! Answers to plain requests that need no endpoint: the one that a route writes down, and redirections.

use bytes::Bytes;
use http::{Response, header};
use http_body_util::Full;

use crate::{
    proxy::{answer, error::Reason},
    routing::{fallback::Respond, filter::Redirect},
};

/// The answer that a route writes down.
pub fn respond(respond: &Respond) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(respond.body.clone()));
    *response.status_mut() = respond.status;
    *response.headers_mut() = respond.headers.clone();
    response
}

/// A redirection to `location`.
///
/// # Errors
/// The request's target has what no field can hold.
pub fn redirect(redirect: &Redirect, location: &str) -> Result<Response<Full<Bytes>>, Reason> {
    let location = answer::location_of(location).ok_or(Reason::MalformedRequest)?;
    let mut response = Response::new(Full::default());
    *response.status_mut() = redirect.status;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}
