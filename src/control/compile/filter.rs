//! Compiles a rule's filters and its fallback: what they mean, and what the schema admits that cannot mean anything.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{Faults, FieldPath};
use crate::{
    api::{
        FallbackType, FilterType, HeaderField, HeaderModifier, OF_FORWARDED, PathMatchType, PathModifier, PathModifierType,
        RedirectScheme, RequestRedirect, RouteFilter, RouteRule, UrlRewrite, is_of_the_handshake,
    },
    routing::{
        fallback::{Fallback, Respond, StaticFiles},
        filter::{Filters, HeaderEdits, PathEdit, Redirect, Rewrite},
        target,
    },
};

/// The filters of a rule at `path`. What does not go together is told to `incompatible`.
pub(super) fn filters(
    rule: &RouteRule,
    path: &FieldPath,
    faults: &mut Faults,
    incompatible: &mut Faults,
) -> Option<Box<Filters>> {
    let mut filters = Filters::default();
    let mut seen: Vec<FilterType> = Vec::new();
    for (index, filter) in rule.filters.iter().enumerate() {
        let at = path.field("filters").item(index);
        if seen.contains(&filter.kind) {
            incompatible.add(at.field("type"), format!("{} is there twice", name(filter.kind)));
        }
        seen.push(filter.kind);
        let body = at.field(field(filter.kind));
        match filter {
            RouteFilter {
                request_header_modifier: Some(modifier),
                ..
            } => filters.request = edits(modifier, &body, faults),
            RouteFilter {
                response_header_modifier: Some(modifier),
                ..
            } => filters.response = edits(modifier, &body, faults),
            RouteFilter {
                url_rewrite: Some(rewrite),
                ..
            } => filters.rewrite = Some(url_rewrite(rewrite, rule, &body, faults, incompatible)),
            RouteFilter {
                request_redirect: Some(redirect),
                ..
            } => filters.redirect = Some(request_redirect(redirect, rule, &body, faults, incompatible)),
            _ => faults.add(at, format!("type {} needs {}", name(filter.kind), field(filter.kind))),
        }
    }
    if seen.contains(&FilterType::UrlRewrite) && seen.contains(&FilterType::RequestRedirect) {
        let message = "URLRewrite and RequestRedirect do not go together in one rule; split it in two";
        incompatible.add(path.field("filters"), message);
    }
    (filters != Filters::default()).then(|| Box::new(filters))
}

/// The type as objects write it.
fn name(kind: FilterType) -> &'static str {
    match kind {
        FilterType::RequestHeaderModifier => "RequestHeaderModifier",
        FilterType::ResponseHeaderModifier => "ResponseHeaderModifier",
        FilterType::UrlRewrite => "URLRewrite",
        FilterType::RequestRedirect => "RequestRedirect",
    }
}

/// The field that belongs to a type.
fn field(kind: FilterType) -> &'static str {
    match kind {
        FilterType::RequestHeaderModifier => "requestHeaderModifier",
        FilterType::ResponseHeaderModifier => "responseHeaderModifier",
        FilterType::UrlRewrite => "urlRewrite",
        FilterType::RequestRedirect => "requestRedirect",
    }
}

fn edits(modifier: &HeaderModifier, path: &FieldPath, faults: &mut Faults) -> HeaderEdits {
    let mut names = HashSet::new();
    let mut remove = Vec::with_capacity(modifier.remove.len());
    for (index, name) in modifier.remove.iter().enumerate() {
        let at = path.field("remove").item(index);
        remove.extend(header_name(name, &at, faults).filter(|name| is_new(name, &mut names, &at, faults)));
    }
    let mut fields = |list: &[HeaderField], field: &str| {
        let mut compiled = Vec::with_capacity(list.len());
        for (index, entry) in list.iter().enumerate() {
            let at = path.field(field).item(index);
            let field = header_field(entry, &at, faults);
            let at = at.field("name");
            let own = |name: &&HeaderName| OF_FORWARDED.contains(&name.as_str());
            if let Some((name, _)) = field.as_ref().filter(|(name, _)| own(&name)) {
                faults.add(at.clone(), format!("{name} says who the client is: see spec.forwarded"));
            }
            compiled.extend(field.filter(|(name, _)| is_new(name, &mut names, &at, faults)));
        }
        compiled.into_boxed_slice()
    };
    HeaderEdits {
        set: fields(&modifier.set, "set"),
        add: fields(&modifier.add, "add"),
        remove: remove.into(),
    }
}

fn is_new(name: &HeaderName, names: &mut HashSet<HeaderName>, at: &FieldPath, faults: &mut Faults) -> bool {
    let is_new = names.insert(name.clone());
    if !is_new {
        let message = format!("{name} is there twice; each name may be there once, and case does not count");
        faults.add(at.clone(), message);
    }
    is_new
}

fn header_field(field: &HeaderField, at: &FieldPath, faults: &mut Faults) -> Option<(HeaderName, HeaderValue)> {
    let name = header_name(&field.name, &at.field("name"), faults);
    let value = HeaderValue::from_str(&field.value);
    if value.is_err() {
        faults.add(at.field("value"), "a value of printable ASCII is needed");
    }
    name.zip(value.ok())
}

fn header_name(name: &str, at: &FieldPath, faults: &mut Faults) -> Option<HeaderName> {
    let Ok(compiled) = HeaderName::from_bytes(name.as_bytes()) else {
        faults.add(at.clone(), format!("{name:?} is no header's name"));
        return None;
    };
    if is_of_the_handshake(compiled.as_str()) {
        faults.add(at.clone(), format!("the connection or the handshake needs {name} as it is"));
        return None;
    }
    Some(compiled)
}

fn url_rewrite(spec: &UrlRewrite, rule: &RouteRule, at: &FieldPath, faults: &mut Faults, incompatible: &mut Faults) -> Rewrite {
    let edit = |spec| path_edit(spec, rule, &at.field("path"), faults, incompatible);
    Rewrite {
        // The pattern admits nothing that a value cannot be.
        host: spec.hostname.as_deref().and_then(|host| HeaderValue::from_str(host).ok()),
        path: spec.path.as_ref().and_then(edit),
    }
}

fn request_redirect(
    spec: &RequestRedirect,
    rule: &RouteRule,
    at: &FieldPath,
    faults: &mut Faults,
    incompatible: &mut Faults,
) -> Redirect {
    let status = spec.status_code.and_then(|code| u16::try_from(code).ok());
    let edit = |spec| path_edit(spec, rule, &at.field("path"), faults, incompatible);
    Redirect {
        status: status
            .and_then(|code| StatusCode::from_u16(code).ok())
            .unwrap_or(REDIRECT_STATUS),
        scheme: spec.scheme.map(|scheme| match scheme {
            RedirectScheme::Http => "http",
            RedirectScheme::Https => "https",
        }),
        host: spec.hostname.as_deref().map(Box::from),
        port: spec.port.and_then(|port| u16::try_from(port).ok()),
        path: spec.path.as_ref().and_then(edit),
    }
}

fn path_edit(
    spec: &PathModifier,
    rule: &RouteRule,
    at: &FieldPath,
    faults: &mut Faults,
    incompatible: &mut Faults,
) -> Option<PathEdit> {
    let mut normal = |field: &str, path: &str| {
        let normal = target::path(path);
        if normal.is_none() {
            let message =
                format!("{path:?} is a path that Holdfast answers 400: malformed, or read differently by different servers");
            faults.add(at.field(field), message);
        }
        normal.map(|path| Box::from(&*path))
    };
    match (spec.kind, &spec.replace_full_path, &spec.replace_prefix_match) {
        (PathModifierType::ReplaceFullPath, Some(path), _) => normal("replaceFullPath", path).map(PathEdit::Full),
        (PathModifierType::ReplacePrefixMatch, _, Some(path)) => {
            let by_prefix = |entry: &crate::api::RouteMatch| entry.path.kind == PathMatchType::PathPrefix;
            if !rule.matches.iter().all(by_prefix) {
                let message = "ReplacePrefixMatch needs a rule all of whose matches are by PathPrefix";
                incompatible.add(at.field("type"), message);
            }
            let prefix: Box<str> = match &**path {
                "" => Box::default(),
                path => normal("replacePrefixMatch", path)?,
            };
            Some(PathEdit::Prefix(prefix.trim_end_matches('/').into()))
        }
        (PathModifierType::ReplaceFullPath | PathModifierType::ReplacePrefixMatch, ..) => {
            faults.add(at.clone(), "the field that belongs to the type is missing");
            None
        }
    }
}

/// What answers requests that are no handshakes.
pub(super) fn fallback(rule: &RouteRule, path: &FieldPath, faults: &mut Faults) -> Fallback {
    let Some(spec) = &rule.fallback else {
        return Fallback::Backend;
    };
    match spec.kind {
        FallbackType::Backend => Fallback::Backend,
        FallbackType::Reject => Fallback::Reject,
        FallbackType::Respond => {
            let respond = spec.respond.clone().unwrap_or_default();
            let at = path.field("fallback").field("respond").field("headers");
            let body = respond.body.unwrap_or_default();
            let mut headers = HeaderMap::new();
            if !body.is_empty() {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            }
            let mut names = HashSet::new();
            for (index, entry) in respond.headers.iter().enumerate() {
                let at = at.item(index);
                if let Some((name, value)) = header_field(entry, &at, faults)
                    && is_new(&name, &mut names, &at.field("name"), faults)
                {
                    headers.insert(name, value);
                }
            }
            let status = respond.status_code.and_then(|code| u16::try_from(code).ok());
            Fallback::Respond(Box::new(Respond {
                status: status
                    .and_then(|code| StatusCode::from_u16(code).ok())
                    .unwrap_or(StatusCode::OK),
                headers,
                body: body.into(),
            }))
        }
        FallbackType::Static => {
            let files = spec.files.clone().unwrap_or_default();
            Fallback::Static(Box::new(StaticFiles {
                path: files.path.unwrap_or_default().into(),
                index: files.index.as_deref().unwrap_or(INDEX).into(),
                spa_fallback: files.spa_fallback.map(Box::from),
            }))
        }
    }
}

/// What a redirect is where the route does not say.
const REDIRECT_STATUS: StatusCode = StatusCode::FOUND;

/// The file of a folder where the route does not say.
const INDEX: &str = "index.html";
