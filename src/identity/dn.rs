//! Distinguished names: written as RFC 4514 strings, compared in one normal form.
//!
//! Two names are equal when they have the same sequence of RDNs, each with the same set of attribute types and
//! values. The string type (PrintableString or UTF8String) makes no difference, letter case and spaces do: a CA that
//! changes them changes the name. Types that readers decode differently (TeletexString, BMPString, UniversalString)
//! never match.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::fmt;
use x509_parser::asn1_rs::Tag;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

/// Attribute types with a short name: those of RFC 4514 section 3 and a few that client certificates carry.
const ATTRIBUTES: &[(&str, &str)] = &[
    ("CN", "2.5.4.3"),
    ("L", "2.5.4.7"),
    ("ST", "2.5.4.8"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("C", "2.5.4.6"),
    ("STREET", "2.5.4.9"),
    ("DC", "0.9.2342.19200300.100.1.25"),
    ("UID", "0.9.2342.19200300.100.1.1"),
    ("serialNumber", "2.5.4.5"),
    ("organizationIdentifier", "2.5.4.97"),
    ("emailAddress", "1.2.840.113549.1.9.1"),
    ("givenName", "2.5.4.42"),
    ("SN", "2.5.4.4"),
    ("title", "2.5.4.12"),
];

/// A name, most significant RDN first as in the certificate; each RDN is sorted.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct DistinguishedName {
    #[schemars(schema_with = "rdns")]
    rdns: Vec<Vec<(String, AttributeValue)>>,
}

fn rdns(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"type": "array", "items": {
        "description": "The type (a dotted OID) and the value.",
        "type": "array", "minItems": 2, "maxItems": 2, "items": {"type": ["string", "object"], "additionalProperties": true},
    }}})
}

/// The value of one attribute.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum AttributeValue {
    Text(String),
    /// Of a type that is not compared; shown as hex of its content.
    Opaque(String),
}

impl DistinguishedName {
    /// A whole Name in DER.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let (rest, name) = X509Name::from_der(der).map_err(|e| format!("not a name in DER: {e}"))?;
        if rest.is_empty() { Self::read(&name) } else { Err("bytes follow the name".into()) }
    }

    pub(super) fn read(name: &X509Name<'_>) -> Result<Self, String> {
        let mut rdns = Vec::new();
        for rdn in name.iter_rdn() {
            let mut attributes = Vec::new();
            for attribute in rdn.iter() {
                let oid = attribute.attr_type().to_id_string();
                let value = attribute.attr_value();
                let comparable = [Tag::Utf8String, Tag::PrintableString, Tag::Ia5String].contains(&value.tag());
                let value = if comparable {
                    let text = std::str::from_utf8(value.data).map_err(|_| "a value is not UTF-8".to_owned())?;
                    if text.chars().any(char::is_control) {
                        return Err(format!("the value of {} contains a control character", short(&oid)));
                    }
                    AttributeValue::Text(text.to_owned())
                } else {
                    AttributeValue::Opaque(hex::encode(value.data))
                };
                attributes.push((oid, value));
            }
            attributes.sort();
            rdns.push(attributes);
        }
        Ok(DistinguishedName { rdns })
    }

    pub fn is_empty(&self) -> bool {
        self.rdns.is_empty()
    }

    /// Bytes that are equal exactly for equal names; `None` when the name is empty or holds a type that is not
    /// compared, so that it matches nothing.
    pub fn comparable(&self) -> Option<Vec<u8>> {
        if self.rdns.is_empty() {
            return None;
        }
        let mut out = Vec::new();
        for rdn in &self.rdns {
            for (oid, value) in rdn {
                let AttributeValue::Text(text) = value else { return None };
                for part in [oid.as_bytes(), text.as_bytes()] {
                    out.extend_from_slice(&(part.len() as u64).to_be_bytes());
                    out.extend_from_slice(part);
                }
            }
            // No part is this long, so the mark cannot be mistaken for one.
            out.extend_from_slice(&u64::MAX.to_be_bytes());
        }
        Some(out)
    }

    /// Types (dotted OIDs) and texts, most significant first; `None` where an RDN has several attributes, or a value of a
    /// type that is not compared.
    pub fn attributes(&self) -> Option<Vec<(&str, &str)>> {
        let single = |rdn: &Vec<(String, AttributeValue)>| matches!(rdn.as_slice(), [(_, AttributeValue::Text(_))]);
        self.rdns.iter().all(single).then(|| {
            self.rdns
                .iter()
                .flatten()
                .filter_map(|(oid, value)| match value {
                    AttributeValue::Text(text) => Some((oid.as_str(), text.as_str())),
                    AttributeValue::Opaque(_) => None,
                })
                .collect()
        })
    }

    /// The text values of an attribute type, given as a dotted OID.
    pub fn values_of(&self, oid: &str) -> Vec<String> {
        self.rdns
            .iter()
            .flatten()
            .filter(|(o, _)| o == oid)
            .filter_map(|(_, v)| match v {
                AttributeValue::Text(text) => Some(text.clone()),
                AttributeValue::Opaque(_) => None,
            })
            .collect()
    }
}

/// RFC 4514 form: least significant RDN first.
impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, rdn) in self.rdns.iter().rev().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            for (m, (oid, value)) in rdn.iter().enumerate() {
                if m > 0 {
                    f.write_str("+")?;
                }
                match value {
                    AttributeValue::Text(text) => write!(f, "{}={}", short(oid), escape(text))?,
                    AttributeValue::Opaque(hex) => write!(f, "{}=#{hex}", short(oid))?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn short(oid: &str) -> &str {
    ATTRIBUTES.iter().find(|(_, o)| *o == oid).map_or(oid, |(name, _)| name)
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    let last = text.chars().count().saturating_sub(1);
    for (n, c) in text.chars().enumerate() {
        let special = matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || (n == 0 && matches!(c, ' ' | '#'))
            || (n == last && c == ' ');
        if special {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Reads an RFC 4514 string. Values written as `#hex` are refused: they are never compared.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_dn(text: &str) -> Result<DistinguishedName, String> {
    let mut rdns = Vec::new();
    for rdn in split(text, ',')? {
        let mut attributes = Vec::new();
        for attribute in split(&rdn, '+')? {
            let Some((kind, value)) = attribute.split_once('=') else {
                return Err(format!("`{attribute}` is not of the form TYPE=value"));
            };
            let kind = kind.trim();
            let is_oid = kind.contains('.') && kind.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            let oid = match ATTRIBUTES.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind)) {
                Some((_, oid)) => (*oid).to_owned(),
                None if is_oid => kind.to_owned(),
                None => return Err(format!("`{kind}` is not a known attribute type: write its dotted OID")),
            };
            if value.trim_start().starts_with('#') {
                return Err("values in `#hex` form are never compared; write the text".into());
            }
            attributes.push((oid, AttributeValue::Text(unescape(value)?)));
        }
        attributes.sort();
        rdns.push(attributes);
    }
    rdns.reverse();
    Ok(DistinguishedName { rdns })
}

/// Splits at `at` where it is not escaped; escapes are kept.
fn split(text: &str, at: char) -> Result<Vec<String>, String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == at {
            parts.push(String::new());
            continue;
        }
        let Some(part) = parts.last_mut() else { continue };
        part.push(c);
        if c == '\\' {
            part.push(chars.next().ok_or("the name ends in a backslash")?);
        }
    }
    if parts.iter().any(|p| p.trim().is_empty()) {
        return Err("a part of the name is empty".into());
    }
    Ok(parts)
}

fn unescape(value: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut chars = value.trim_start_matches(' ').chars().peekable();
    // Trailing spaces count only when they are escaped.
    let mut keep = 0;
    while let Some(c) = chars.next() {
        if c != '\\' {
            let mut buffer = [0; 4];
            bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            if c != ' ' {
                keep = bytes.len();
            }
            continue;
        }
        let first = chars.next().ok_or("the value ends in a backslash")?;
        match (first.to_digit(16), chars.peek().and_then(|c| c.to_digit(16))) {
            (Some(high), Some(low)) => {
                chars.next();
                bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
            }
            _ => {
                let mut buffer = [0; 4];
                bytes.extend_from_slice(first.encode_utf8(&mut buffer).as_bytes());
            }
        }
        keep = bytes.len();
    }
    bytes.truncate(keep);
    let text = String::from_utf8(bytes).map_err(|_| "an escaped value is not UTF-8".to_owned())?;
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("a value is empty or contains a control character".into());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_4514_examples_are_read_and_written() {
        for text in [
            "UID=jsmith,DC=example,DC=net",
            "OU=Sales+CN=J.  Smith,DC=example,DC=net",
            r#"CN=James \"Jim\" Smith\, III,DC=example,DC=net"#,
            "CN=Lučić",
        ] {
            let name = parse_dn(text).unwrap();
            assert_eq!(parse_dn(&name.to_string()).unwrap(), name);
        }
        assert_eq!(parse_dn(r"CN=Lu\C4\8Di\C4\87").unwrap(), parse_dn("CN=Lučić").unwrap());
        assert_eq!(parse_dn("CN=a+OU=b").unwrap(), parse_dn("OU=b+CN=a").unwrap());
        assert_eq!(parse_dn("CN=a, O=b").unwrap(), parse_dn("CN=a,O=b").unwrap());
    }

    #[test]
    fn case_and_order_make_a_different_name() {
        assert_ne!(parse_dn("CN=acme").unwrap().comparable(), parse_dn("CN=Acme").unwrap().comparable());
        assert_ne!(parse_dn("CN=a,O=b").unwrap().comparable(), parse_dn("O=b,CN=a").unwrap().comparable());
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for bad in ["", "acme", "CN=", "CN=a,,O=b", "CN=#0c0161", "XX=a", r"CN=a\", r"CN=a\00b"] {
            assert!(parse_dn(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_value_survives_writing_and_reading(value in "[^\\p{C}]{1,20}") {
            prop_assume!(!value.chars().any(char::is_control));
            let name = DistinguishedName { rdns: vec![vec![("2.5.4.3".into(), AttributeValue::Text(value))]] };
            prop_assert_eq!(parse_dn(&name.to_string()).unwrap(), name);
        }
    }
}
