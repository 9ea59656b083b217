//! The cookies one run was given, kept as a browser keeps them for one URL.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::SET_COOKIE;

/// Name and value of each cookie that the URL's path is to be sent with.
#[derive(Debug, Default)]
pub(super) struct Jar {
    cookies: BTreeMap<String, String>,
}

impl Jar {
    /// Takes over what an answer for `path` sets or clears, and returns the names whose value changed.
    ///
    /// A `Secure` cookie is not kept: over `ws:` it would never be sent. `Expires` is not read; a run is short.
    pub(super) fn learn(&mut self, path: &str, headers: &HeaderMap) -> Vec<String> {
        let lines = headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
        lines.filter_map(|line| self.learn_one(path, line)).collect()
    }

    /// The value of a Cookie header, with what the user gave in front; `None` when there is nothing to send.
    pub(super) fn header(&self, given: Option<&str>) -> Option<String> {
        let own = self
            .cookies
            .iter()
            .take(MAX_COOKIES)
            .map(|(name, value)| format!("{name}={value}"));
        let all: Vec<String> = given.map(str::to_owned).into_iter().chain(own).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn learn_one(&mut self, path: &str, line: &str) -> Option<String> {
        let mut parts = line.split(';').map(str::trim);
        let (name, value) = parts.next()?.split_once('=')?;
        let attributes: Vec<(String, &str)> = parts
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim()))
            .collect();
        let attribute = |wanted: &str| {
            attributes
                .iter()
                .rev()
                .find(|(key, _)| key == wanted)
                .map(|(_, value)| *value)
        };
        let over = attribute("max-age")
            .and_then(|age| age.parse::<i64>().ok())
            .is_some_and(|age| age <= 0);
        if over {
            return self.cookies.remove(name).map(|_| name.to_owned());
        }
        let elsewhere = attribute("path").is_some_and(|of| of.starts_with('/') && !path_matches(of, path));
        if elsewhere || attribute("secure").is_some() {
            return None;
        }
        let before = self.cookies.insert(name.to_owned(), value.to_owned());
        (before.as_deref() != Some(value)).then(|| name.to_owned())
    }
}

/// RFC 6265, 5.1.4.
fn path_matches(cookie: &str, request: &str) -> bool {
    request
        .strip_prefix(cookie)
        .is_some_and(|rest| rest.is_empty() || cookie.ends_with('/') || rest.starts_with('/'))
}

/// Cookies that one request carries at most.
const MAX_COOKIES: usize = 50;

#[cfg(test)]
mod tests {
    use super::*;

    fn learn(jar: &mut Jar, path: &str, lines: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(SET_COOKIE, line.parse().unwrap());
        }
        jar.learn(path, &headers)
    }

    #[test]
    fn cookies_are_kept_replaced_and_cleared() {
        let mut jar = Jar::default();
        assert_eq!(jar.header(None), None);
        assert_eq!(learn(&mut jar, "/chat", &["a=1; Path=/chat; HttpOnly", "b=2"]), ["a", "b"]);
        assert_eq!(learn(&mut jar, "/chat", &["a=1"]), [""; 0]);
        assert_eq!(learn(&mut jar, "/chat", &["a=3"]), ["a"]);
        assert_eq!(jar.header(Some("mine=0")).as_deref(), Some("mine=0; a=3; b=2"));
        assert_eq!(learn(&mut jar, "/chat", &["b=; Max-Age=0"]), ["b"]);
        assert_eq!(jar.header(None).as_deref(), Some("a=3"));
    }

    #[test]
    fn cookies_of_other_paths_and_of_tls_are_not_ours() {
        let mut jar = Jar::default();
        learn(
            &mut jar,
            "/chatter",
            &["a=1; Path=/chat", "b=2; path=/", "c=3; Secure", "d=4; Path=/chatter"],
        );
        assert_eq!(jar.header(None).as_deref(), Some("b=2; d=4"));
    }
}
