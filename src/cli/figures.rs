//! How commands write figures for people: counts, bytes, ages, shares, moments.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

/// `12,402`.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Two or three digits and a unit: `310`, `4.2k`, `88M`. Of bytes too, by thousands.
pub(super) fn short(amount: f64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let mut amount = amount.max(0.0);
    let mut unit = 0;
    while amount >= 999.5 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    let unit = UNITS[unit];
    let tenths = (amount * 10.0).round();
    match tenths < 100.0 && tenths % 10.0 > 0.0 {
        true => format!("{amount:.1}{unit}"),
        false => format!("{amount:.0}{unit}"),
    }
}

/// The two largest units: `3d2h`, `3h12m`, `41m`, `2m5s`, `7s`, `0s`.
pub(super) fn age(seconds: f64) -> String {
    let seconds = if seconds.is_finite() {
        seconds.clamp(0.0, 1e12) as u64
    } else {
        0
    };
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let two = |large: u64, unit: char, small: u64, smaller: char| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{smaller}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        (0, 0, _) => format!("{minutes}m"),
        (0, ..) => two(hours, 'h', minutes, 'm'),
        _ => two(days, 'd', hours, 'h'),
    }
}

/// `0.4 ms`, `18 ms`, `1.2 s`.
pub(super) fn time(seconds: f64) -> String {
    let millis = seconds * 1000.0;
    match millis {
        ..9.95 => format!("{millis:.1} ms"),
        ..999.5 => format!("{millis:.0} ms"),
        _ => format!("{seconds:.1} s"),
    }
}

/// `18%`; less than half of one is `<1%`.
pub(super) fn percent(part: u64, whole: u64) -> String {
    let percent = 100.0 * part as f64 / whole.max(1) as f64;
    match percent {
        0.0 => "0%".to_owned(),
        ..0.5 => "<1%".to_owned(),
        _ => format!("{percent:.0}%"),
    }
}

/// The time of day of an RFC 3339 timestamp in UTC, with the day if that is not `today`'s.
pub(super) fn clock(timestamp: &str, today: Timestamp) -> String {
    let Ok(moment) = timestamp.parse::<Timestamp>() else {
        return timestamp.to_owned();
    };
    let format = match moment.strftime("%F").to_string() == today.strftime("%F").to_string() {
        true => "%H:%M:%SZ",
        false => "%F %H:%M:%SZ",
    };
    moment.strftime(format).to_string()
}

/// `10m`, `1h30m`: a duration as it was asked for.
pub(super) fn asked(duration: Duration) -> String {
    age(duration.as_secs_f64())
}

/// A number of a document; 0 where there is none.
pub(super) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// The same with a fraction.
pub(super) fn fraction(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

/// A text of a document; empty where there is none.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_say_their_unit() {
        assert_eq!(
            [0, 7, 999, 1000, 12_402, 1_234_567].map(count),
            ["0", "7", "999", "1,000", "12,402", "1,234,567"]
        );
        assert_eq!(
            [0.0, 0.4, 2.0, 310.0, 999.6, 4_200.0, 88_000_000.0, 1.2e6, 5e15].map(short),
            ["0", "0.4", "2", "310", "1k", "4.2k", "88M", "1.2M", "5000T"]
        );
        assert_eq!(
            [0.2, 7.9, 125.0, 120.0, 2_460.0, 11_520.0, 3_600.0, 266_400.0, f64::NAN].map(age),
            ["0s", "7s", "2m5s", "2m", "41m", "3h12m", "1h", "3d2h", "0s"]
        );
        assert_eq!([0.0004, 0.018, 0.9996, 1.25].map(time), ["0.4 ms", "18 ms", "1.0 s", "1.2 s"]);
        assert_eq!(percent(1, 1000), "<1%");
        assert_eq!(percent(0, 0), "0%");
        assert_eq!(percent(201, 1140), "18%");
    }

    #[test]
    fn a_moment_of_another_day_says_which() {
        let today = "2026-11-26T15:00:00Z".parse().unwrap();
        assert_eq!(clock("2026-11-26T14:02:11.123Z", today), "14:02:11Z");
        assert_eq!(clock("2026-11-25T14:02:11.123Z", today), "2026-11-25 14:02:11Z");
    }
}
