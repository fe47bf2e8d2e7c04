//! The scalar forms used in our documents: durations, sizes, times, ids, networks, secret references.
//!
//! Each `parse_*` returns the value or a sentence that says what is wrong; the caller adds the place.

use ipnet::IpNet;
use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where a secret is found. Secrets are never written inline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// `file:PATH`
    File(PathBuf),
    /// `env:NAME`
    Env(String),
    /// `credential:NAME`, a file in `$CREDENTIALS_DIRECTORY` (systemd `LoadCredential=`).
    Credential(String),
}

/// `10s`, `500ms`, `5m`, `12h`, `30d`: one whole number and one unit.
///
/// # Errors
/// Anything else.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let bad = || format!("`{text}` is not a duration: write a whole number and a unit (ms, s, m, h, d), such as `10s`");
    let n: u64 = digits.parse().map_err(|_| bad())?;
    let millis_per_unit: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    n.checked_mul(millis_per_unit).map(Duration::from_millis).ok_or_else(|| format!("`{text}` is too long"))
}

/// Bytes: `16384`, `64KiB`, `10MiB`, `1GiB`.
///
/// # Errors
/// Anything else.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let bad =
        || format!("`{text}` is not a size: write bytes, or a whole number with KiB, MiB or GiB, such as `64KiB`");
    let n: u64 = digits.parse().map_err(|_| bad())?;
    let scale: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(bad()),
    };
    n.checked_mul(scale).ok_or_else(|| format!("`{text}` is too large"))
}

/// An RFC 3339 time with an offset, as nanoseconds since 1970 (UTC).
///
/// # Errors
/// A bare date or a time without an offset is ambiguous and refused; the message shows what each reading would be.
pub fn parse_time(text: &str) -> Result<i64, String> {
    let has_offset = text.ends_with(['Z', 'z'])
        || text.get(19..).is_some_and(|tail| {
            tail.trim_start_matches(['.', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']).starts_with(['+', '-'])
        });
    if text.len() == 10 && text.parse::<civil::Date>().is_ok() {
        return Err(format!(
            "`{text}` is a date without a time: write `{text}T00:00:00Z` (UTC) or with your offset, such as \
             `{text}T00:00:00+01:00`; ends are exclusive, so the whole day is included only by the next day's start"
        ));
    }
    if !has_offset || text.get(10..11).is_none_or(|t| !matches!(t, "T" | "t")) || text.contains('[') {
        return Err(format!(
            "`{text}` is not an RFC 3339 time with an offset: write it like `2026-01-31T09:00:00+01:00`"
        ));
    }
    let time: Timestamp = text
        .parse()
        .map_err(|_| format!("`{text}` is not an RFC 3339 time: write it like `2026-01-31T09:00:00+01:00`"))?;
    i64::try_from(time.as_nanosecond()).map_err(|_| format!("`{text}` is outside the years 1678 to 2262"))
}

/// Nanoseconds since 1970 as RFC 3339 in UTC.
pub fn format_time(unix_nanos: i64) -> String {
    match Timestamp::from_nanosecond(i128::from(unix_nanos)) {
        Ok(t) => t.to_string(),
        Err(_) => format!("{unix_nanos} ns"),
    }
}

/// An id: 1 to 64 of `a-z 0-9 - _ .`, starting with a letter or digit.
///
/// # Errors
/// Anything else; upper case is refused so that two ids never differ by case alone.
pub fn parse_id(text: &str) -> Result<&str, String> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if starts && text.len() <= 64 && text.bytes().all(good) {
        Ok(text)
    } else {
        Err(format!(
            "`{}` is not an id: 1 to 64 of a-z, 0-9, `-`, `_`, `.`, starting with a letter or digit",
            text.chars().take(80).collect::<String>().escape_debug()
        ))
    }
}

/// A network in CIDR form, or one address. Host bits must be zero; an IPv4-mapped IPv6 network is written as IPv4.
///
/// # Errors
/// Zone ids, host bits, mapped networks, anything that is not a network.
pub fn parse_cidr(text: &str) -> Result<IpNet, String> {
    if text.contains('%') {
        return Err(format!("`{text}` has a zone id; networks are compared without zones: remove it"));
    }
    let net: IpNet = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => {
                return Err(format!("`{text}` is not a network: write it like `203.0.113.0/24` or `2001:db8::/32`"));
            }
        },
    };
    if net.trunc() != net {
        return Err(format!("`{text}` has host bits set: write `{}`", net.trunc()));
    }
    if let IpNet::V6(v6) = net {
        if let Some(v4) = v6.addr().to_ipv4_mapped() {
            let prefix = v6.prefix_len().saturating_sub(96);
            return Err(format!("`{text}` is IPv4 written as IPv6: write `{v4}/{prefix}`"));
        }
    }
    Ok(net)
}

/// An IANA time zone name that exists in the built-in database.
///
/// # Errors
/// Unknown names.
pub fn parse_zone(text: &str) -> Result<TimeZone, String> {
    TimeZone::get(text)
        .map_err(|_| format!("`{text}` is not an IANA time zone: write it like `Europe/Berlin` or `UTC`"))
}

/// `file:PATH`, `env:NAME` or `credential:NAME`.
///
/// # Errors
/// Anything else, without repeating the text: it may be the secret itself.
pub fn parse_secret(text: &str) -> Result<SecretRef, String> {
    match text.split_once(':') {
        Some(("file", path)) if !path.is_empty() => Ok(SecretRef::File(path.into())),
        Some(("env", name)) if !name.is_empty() => Ok(SecretRef::Env(name.to_owned())),
        Some(("credential", name)) if !name.is_empty() && !name.contains('/') => {
            Ok(SecretRef::Credential(name.to_owned()))
        }
        _ => Err("not a secret reference: secrets are not written here; write `file:PATH`, `env:NAME` or \
                  `credential:NAME`"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_date_shows_both_readings() {
        let err = parse_time("2026-03-01").unwrap_err();
        assert!(err.contains("2026-03-01T00:00:00Z") && err.contains("2026-03-01T00:00:00+01:00"), "{err}");
    }

    #[test]
    fn a_time_needs_an_offset() {
        for bad in
            ["2026-03-01T00:00:00", "2026-03-01 00:00:00Z", "yesterday", "2026-03-01T00:00:00+01:00[Europe/Berlin]"]
        {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_time("1970-01-01T01:00:00.000000001+01:00"), Ok(1));
        assert_eq!(format_time(1_000_000_000), "1970-01-01T00:00:01Z");
    }

    #[test]
    fn networks_are_exact() {
        assert!(parse_cidr("10.0.0.1/8").unwrap_err().contains("10.0.0.0/8"));
        assert!(parse_cidr("::ffff:10.0.0.0/104").unwrap_err().contains("10.0.0.0/8"));
        assert!(parse_cidr("fe80::1%eth0").is_err());
        assert_eq!(parse_cidr("127.0.0.1").unwrap().to_string(), "127.0.0.1/32");
    }

    #[test]
    fn an_inline_secret_is_refused_without_being_repeated() {
        let err = parse_secret("hunter2-very-secret").unwrap_err();
        assert!(!err.contains("hunter2"), "{err}");
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("10").is_err() && parse_duration("1.5s").is_err() && parse_duration("-1s").is_err());
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert!(parse_size("64kb").is_err());
    }
}
