//! The entries of a list → keys of their serials, one after the other: of a million entries only the keys are kept.

use super::CrlFault;
use super::der::{DerFault, ENUMERATED, GENERALIZED_TIME, INTEGER, Reader, SEQUENCE, UTC_TIME};
use super::extensions::{each, unknown};
use crate::identity::SerialKey;

const REASON_CODE: &[u8] = &[0x55, 0x1d, 0x15];
const HOLD_INSTRUCTION: &[u8] = &[0x55, 0x1d, 0x17];
const INVALIDITY_DATE: &[u8] = &[0x55, 0x1d, 0x18];
const CERTIFICATE_ISSUER: &[u8] = &[0x55, 0x1d, 0x1d];
const REMOVE_FROM_CRL: &[u8] = &[8];

/// Longest serial in a list. Certificates with more than 20 octets, or with a negative number, are never accepted, but
/// CAs revoked such certificates in the past: one old entry must not cost the whole list.
const MAX_SERIAL: usize = 32;

/// Every entry is revoked, whatever its reason: certificateHold too. Dates are not read, for they change nothing.
pub(super) fn keys(content: &[u8]) -> Result<Vec<SerialKey>, CrlFault> {
    // Counted first, so that what is allocated is what is kept.
    let (mut count, mut reader) = (0usize, Reader::new(content));
    while !reader.is_empty() {
        reader.expect(SEQUENCE).map_err(form)?;
        count += 1;
    }
    let mut keys = Vec::with_capacity(count);
    let mut reader = Reader::new(content);
    while !reader.is_empty() {
        keys.push(key(reader.expect(SEQUENCE).map_err(form)?.content)?);
    }
    Ok(keys)
}

fn key(entry: &[u8]) -> Result<SerialKey, CrlFault> {
    let mut fields = Reader::new(entry);
    let serial = fields.expect(INTEGER).map_err(form)?.content;
    if serial.is_empty() || serial.len() > MAX_SERIAL {
        return Err(CrlFault::Malformed("the serial number of an entry has no octets, or more than 32"));
    }
    if !matches!(fields.next().map_err(form)?.tag, UTC_TIME | GENERALIZED_TIME) {
        return Err(form(DerFault::Form));
    }
    if let Some(extensions) = fields.optional(SEQUENCE).map_err(form)? {
        each(extensions.content, "entry", |extension| match extension.oid {
            REASON_CODE => {
                let mut value = Reader::new(extension.value);
                let code = value.expect(ENUMERATED).map_err(form)?.content;
                value.end().map_err(form)?;
                if code == REMOVE_FROM_CRL { Err(CrlFault::RemoveFromCrl) } else { Ok(()) }
            }
            CERTIFICATE_ISSUER => Err(CrlFault::Indirect),
            HOLD_INSTRUCTION | INVALIDITY_DATE => Ok(()),
            _ => unknown(&extension, "entry"),
        })?;
    }
    fields.end().map_err(form)?;
    Ok(SerialKey::of_integer(serial))
}

fn form(_: DerFault) -> CrlFault {
    CrlFault::Malformed("an entry cannot be read")
}
