//! Sizes as people write them for Docker.

use crate::{Error, Result};

/// The step between units of `1k`, `1m`, … where Docker counts in decimal: log files, and what it shows.
pub const DECIMAL: u32 = 1000;
/// The step where Docker counts in binary: memory, and all else that people ask for.
pub const BINARY: u32 = 1024;

/// `10m`, `1.5 GB`, `64KiB`, `4096` as bytes; each unit is `step` times the one before, whatever its letters.
/// What is too large for a signed number is the largest one. Source: docker/go-units 0.5, `FromHumanSize` and
/// `RAMInBytes`, whose texts the errors have.
pub fn parse_size(text: &str, step: u32) -> Result<u64> {
    let bad = || Error::invalid(format!("invalid size: '{text}'"));
    let last = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(bad)?;
    let (number, suffix) = text.split_at(last + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    let number: f64 =
        number.parse().map_err(|_| Error::invalid(format!("strconv.ParseFloat: parsing \"{number}\": invalid syntax")))?;
    if number.is_nan() || number < 0.0 {
        return Err(bad());
    }
    let unit = suffix.to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit != "ib" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(Error::invalid(format!("invalid suffix: '{}'", if suffix.len() > 3 { suffix } else { &unit }))),
    };
    Ok((number * f64::from(step).powi(power)) as i64 as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        let decimal =
            [("1", 1), ("1b", 1), ("1k", 1000), ("1KB", 1000), ("1KiB", 1000), ("1.5 m", 1_500_000), ("2g", 2_000_000_000)];
        for (text, want) in decimal {
            assert_eq!(parse_size(text, DECIMAL).unwrap(), want, "{text}");
        }
        let binary = [
            ("512m", 512 << 20),
            ("1.5g", 3 << 29),
            ("64KiB", 64 << 10),
            ("10b", 10),
            ("4096", 4096),
            ("+1", 1),
            ("1e3", 1000),
            ("1 ", 1),
            ("1.", 1),
            ("2P", 2 << 50),
            ("9999999p", i64::MAX as u64),
        ];
        for (text, want) in binary {
            assert_eq!(parse_size(text, BINARY).unwrap(), want, "{text}");
        }
    }

    /// What the docker CLI says of `--memory`.
    #[test]
    fn errors_have_dockers_words() {
        for (text, want) in [
            ("", "invalid size: ''"),
            ("m", "invalid size: 'm'"),
            ("inf", "invalid size: 'inf'"),
            ("-1m", "invalid size: '-1m'"),
            ("1x", "invalid suffix: 'x'"),
            ("1iB", "invalid suffix: 'ib'"),
            ("1KBB", "invalid suffix: 'kbb'"),
            ("1KBBB", "invalid suffix: 'KBBB'"),
            ("1..5", "strconv.ParseFloat: parsing \"1..5\": invalid syntax"),
            ("1  m", "strconv.ParseFloat: parsing \"1 \": invalid syntax"),
            (" 1", "strconv.ParseFloat: parsing \" 1\": invalid syntax"),
        ] {
            assert_eq!(parse_size(text, BINARY).unwrap_err().to_string(), want, "{text}");
        }
    }
}
