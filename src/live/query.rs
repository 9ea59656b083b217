//! What a question says behind its `?`: each name known, each at most once, and what is wrong said with what would be right.

use http::StatusCode;

use crate::{
    proxy::view::{ClientFilter, Code, Filter},
    web::{self, Answer},
};

/// The parameters of one question.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

/// What is wrong with a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong(String);

impl Wrong {
    pub(super) fn answer(self) -> Answer {
        web::text(StatusCode::BAD_REQUEST, self.0 + "\n")
    }
}

impl Query {
    /// Reads parameters of which only those in `known` may be there. Empty values are as good as none.
    pub(super) fn parse(text: Option<&str>, known: &[&str]) -> Result<Self, Wrong> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text.unwrap_or_default().as_bytes()) {
            if !known.contains(&&*name) {
                return Err(Wrong(format!(
                    "{name:?} is not asked for here; what is: {}",
                    known.join(", ")
                )));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(Wrong(format!("{name} is given twice; several values go in one, with commas")));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// A value of a type, or what one would be.
    pub(super) fn parsed<T>(&self, name: &str, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Wrong> {
        self.get(name)
            .map(|value| parse(value).ok_or_else(|| Wrong(format!("{name}={value}: not {wanted}"))))
            .transpose()
    }

    /// One of some words.
    pub(super) fn word<T: Copy, const N: usize>(
        &self,
        name: &str,
        all: [T; N],
        word: fn(T) -> &'static str,
    ) -> Result<Option<T>, Wrong> {
        let wanted = all.map(word).join(", ");
        self.parsed(name, &format!("one of {wanted}"), |value| {
            all.into_iter().find(|candidate| word(*candidate) == value)
        })
    }

    /// How many rows are wanted.
    pub(super) fn limit(&self) -> Result<usize, Wrong> {
        let parse = |value: &str| value.parse().ok().filter(|limit| (1..=MAX_ROWS).contains(limit));
        let limit = self.parsed("limit", &format!("a number from 1 to {MAX_ROWS}"), parse)?;
        Ok(limit.unwrap_or(ROWS))
    }

    /// Which tunnels or ends are meant. `now`: in milliseconds since 1970.
    pub(super) fn filter(&self, now: u64) -> Result<Filter, Wrong> {
        let route = self.parsed("route", "NAMESPACE/NAME", |value| {
            let (namespace, name) = value.split_once('/')?;
            (!namespace.is_empty() && !name.is_empty()).then(|| (namespace.to_owned(), name.to_owned()))
        })?;
        let client = self.parsed("client", "an address or a network such as 192.0.2.0/24", |value| {
            let network = value
                .parse()
                .or_else(|_| value.parse().map(|ip: std::net::IpAddr| ip.to_canonical().into()));
            network.ok().map(ClientFilter)
        })?;
        let causes = self.parsed("cause", "causes or reasons; holdfast explain lists them", |value| {
            let words: Vec<String> = value.split(',').map(str::to_owned).collect();
            words.iter().all(|word| Filter::is_known(word)).then_some(words)
        })?;
        let since = self.parsed("since", "a number of seconds", |value| {
            let seconds: f64 = value
                .parse()
                .ok()
                .filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)?;
            Some(now.saturating_sub((seconds * 1000.0) as u64))
        })?;
        Ok(Filter {
            route,
            rule: self.get("rule").map(str::to_owned),
            endpoint: self.get("endpoint").map(str::to_owned),
            client,
            id: self.parsed("id", "the 16 hexadecimal digits of a connection's id", id)?,
            causes: causes.unwrap_or_default(),
            by: None,
            code: self.parsed("code", "a close code or a status", |value| {
                value.parse().ok().filter(|code| (100..=4999).contains(code)).map(Code)
            })?,
            since: since.unwrap_or_default(),
        })
    }
}

/// The id of a connection, as records write it. A request id that Holdfast made begins with it.
pub(super) fn id(text: &str) -> Option<u64> {
    let is_whole = matches!(text.len(), 1..=16 | 32) && text.is_ascii();
    u64::from_str_radix(is_whole.then(|| text.get(..16).unwrap_or(text))?, 16).ok()
}

/// Rows that are answered unless another number is asked for, and at most.
const ROWS: usize = 100;
const MAX_ROWS: usize = 1000;
