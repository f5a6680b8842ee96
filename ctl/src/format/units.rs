//! Sizes as Docker writes them, and reads them.

use anyhow::Result;
use fs_base::units::{BINARY, parse_size};

/// Decimal, four significant digits: `4.262MB`.
pub fn size(bytes: f64) -> String {
    scaled(bytes, 1000.0, 4, &["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"])
}

/// Decimal, three significant digits: `4.26MB`, as in tables.
pub fn size3(bytes: f64) -> String {
    scaled(bytes, 1000.0, 3, &["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"])
}

/// Binary, four significant digits: `4.065MiB`.
pub fn binary(bytes: f64) -> String {
    scaled(bytes, 1024.0, 4, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"])
}

fn scaled(mut number: f64, base: f64, digits: usize, units: &[&str]) -> String {
    let mut unit = 0;
    while number >= base && unit < units.len() - 1 {
        number /= base;
        unit += 1;
    }
    format!("{}{}", significant(number, digits), units[unit])
}

/// C's and Go's `%.*g`.
pub fn significant(number: f64, digits: usize) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{:.*e}", digits.saturating_sub(1), number);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim_zeros(mantissa), exponent.abs());
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    trim_zeros(&format!("{number:.decimals$}")).to_owned()
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// Reads `512m`, `1.5g`, `64KiB` as bytes: units of 1024.
pub fn parse_bytes(text: &str) -> Result<i64> {
    Ok(parse_size(text, BINARY)?.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_gos_digits() {
        assert_eq!(size(0.0), "0B");
        assert_eq!(size(999.0), "999B");
        assert_eq!(size(1000.0), "1kB");
        assert_eq!(size(4_261_502.0), "4.262MB");
        assert_eq!(size3(4_261_502.0), "4.26MB");
        assert_eq!(size3(1_955_000_000.0), "1.96GB");
        assert_eq!(size3(999_999.0), "1e+03kB");
        assert_eq!(binary(25_280_000_000.0), "23.54GiB");
    }
}
