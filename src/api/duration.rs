//! Durations as Gateway API writes them (GEP-2257).

use std::{borrow::Cow, fmt, str::FromStr, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::pattern::DURATION;

/// A duration of whole milliseconds: one to four numbers of at most five digits, each with its unit `h`, `m`, `s` or `ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(time::Duration);

/// The text is no [`Duration`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration such as 90s, 1h30m or 250ms")]
pub struct InvalidDuration(String);

impl Duration {
    /// Off, where off is allowed.
    pub const ZERO: Self = Self(time::Duration::ZERO);

    /// A duration of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u32) -> Self {
        Self(time::Duration::from_secs(seconds as u64))
    }
}

impl From<Duration> for time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

/// Parts of a millisecond are cut off.
impl From<time::Duration> for Duration {
    fn from(duration: time::Duration) -> Self {
        Self(time::Duration::from_millis(
            u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        ))
    }
}

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        parse(text)
            .map(Self)
            .ok_or_else(|| InvalidDuration(text.chars().take(MAX_SHOWN).collect()))
    }
}

fn parse(text: &str) -> Option<time::Duration> {
    let mut total = time::Duration::ZERO;
    let mut rest = text;
    for _ in 0..MAX_PARTS {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at(digits);
        if !(1..=MAX_DIGITS).contains(&digits) {
            return None;
        }
        let (millis, length) = match unit.as_bytes() {
            [b'm', b's', ..] => (1, 2),
            [b'h', ..] => (3_600_000, 1),
            [b'm', ..] => (60_000, 1),
            [b's', ..] => (1_000, 1),
            _ => return None,
        };
        total += time::Duration::from_millis(number.parse::<u64>().ok()? * millis);
        rest = &unit[length..];
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            if millis >= size {
                write!(f, "{}{unit}", millis / size)?;
                millis %= size;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 2,
            "maxLength": MAX_LENGTH,
            "pattern": DURATION,
        })
    }
}

const MAX_PARTS: usize = 4;
const MAX_DIGITS: usize = 5;
/// Four times five digits and two letters.
const MAX_LENGTH: usize = 28;
/// Of what is not a duration, in an error.
const MAX_SHOWN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_gep_2257_says() {
        for (text, millis, canonical) in [
            ("0s", 0, "0s"),
            ("00000h", 0, "0s"),
            ("90s", 90_000, "1m30s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("250ms", 250, "250ms"),
            ("1m1m1m1m", 240_000, "4m"),
            ("1s500ms", 1_500, "1s500ms"),
            ("99999h", 359_996_400_000, "99999h"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(time::Duration::from(duration).as_millis(), millis, "{text}");
            assert_eq!(duration.to_string(), canonical, "{text}");
            assert_eq!(canonical.parse(), Ok(duration));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "0",
            "s",
            "1",
            "-1s",
            "+1s",
            "1.5s",
            "1 s",
            "1d",
            "1us",
            "100000s",
            "1s1s1s1s1s",
            "1S",
            "1h30",
        ] {
            assert_eq!(text.parse::<Duration>(), Err(InvalidDuration(text.to_owned())), "{text}");
        }
    }
}
