//! Ages and moments as Docker writes them, and reads them.

use anyhow::{Result, anyhow};
use jiff::{Timestamp, Zoned, civil, tz::TimeZone};

/// `2 minutes ago`, of a moment in Unix seconds.
pub fn ago(unix: i64) -> String {
    format!("{} ago", fsd_api::human_duration(Timestamp::now().as_second() - unix))
}

/// As Go prints a moment: `2026-11-21 03:25:01 +0000 UTC`.
pub fn local(unix: i64) -> String {
    let moment = Timestamp::from_second(unix).unwrap_or_default().to_zoned(TimeZone::system());
    moment.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// Unix seconds of an RFC 3339 text; `None` for Go's zero time and what is no time.
pub fn unix(text: &str) -> Option<i64> {
    let second = text.parse::<Timestamp>().ok()?.as_second();
    (second > -62_000_000_000).then_some(second)
}

/// RFC 3339 with nanoseconds in local time, as `docker events` writes it.
pub fn rfc3339_nanos(nanos: i64) -> String {
    let moment = Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default().to_zoned(TimeZone::system());
    let zone = moment.strftime("%:z").to_string();
    let zone = if zone == "+00:00" { "Z".to_owned() } else { zone };
    format!("{}.{:09}{zone}", moment.strftime("%Y-%m-%dT%H:%M:%S"), moment.subsec_nanosecond())
}

/// `--since` and `--until`: `10m` before now, RFC 3339 with or without zone or time, or Unix seconds. Gives `SECONDS[.NANOS]`.
pub fn moment(text: &str, now: &Zoned) -> Result<String> {
    let bad = || anyhow!("failed to parse value as time or duration: {text:?}");
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Ok(text.to_owned());
    }
    if let Some(seconds) = go_duration(text) {
        let at = now.timestamp().as_nanosecond() - (seconds * 1e9) as i128;
        return Ok(format!("{}.{:09}", at.div_euclid(1_000_000_000), at.rem_euclid(1_000_000_000)));
    }
    let timestamp = if let Ok(timestamp) = text.parse::<Timestamp>() {
        timestamp
    } else {
        let full = if text.contains('T') { text.to_owned() } else { format!("{}T00:00:00", text.trim_end_matches('Z')) };
        let full = if full.matches(':').count() == 1 { format!("{full}:00") } else { full };
        let civil: civil::DateTime = full.trim_end_matches('Z').parse().map_err(|_| bad())?;
        let zone = if text.ends_with('Z') { TimeZone::UTC } else { now.time_zone().clone() };
        civil.to_zoned(zone).map_err(|_| bad())?.timestamp()
    };
    Ok(format!("{}.{:09}", timestamp.as_second(), timestamp.subsec_nanosecond()))
}

/// Go's durations in seconds: `1h30m`, `1.5s`, `300ms`.
pub fn go_duration(text: &str) -> Option<f64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Some(if negative { -total } else { total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_dockers_forms() {
        let now = Timestamp::from_second(1_800_000_000).unwrap().to_zoned(TimeZone::UTC);
        assert_eq!(moment("10m", &now).unwrap(), "1799999400.000000000");
        assert_eq!(moment("1700000000", &now).unwrap(), "1700000000");
        assert_eq!(moment("2023-11-14T22:13:20Z", &now).unwrap(), "1700000000.000000000");
        assert_eq!(moment("2023-11-14", &now).unwrap(), "1699920000.000000000");
        assert_eq!(moment("2023-11-14T22:13", &now).unwrap(), "1699999980.000000000");
        assert!(moment("yesterday", &now).is_err());
        assert_eq!(go_duration("1h30m"), Some(5400.0));
        assert_eq!(go_duration("1x"), None);
    }
}
