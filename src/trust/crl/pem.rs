//! The bytes of a file → the DER of the one list in it.

use super::{CrlFault, MAX_CRL_BYTES};
use data_encoding::BASE64_MIME;
use std::borrow::Cow;

const BEGIN: &[u8] = b"-----BEGIN X509 CRL-----";
const END: &[u8] = b"-----END X509 CRL-----";
const ANY_BEGIN: &[u8] = b"-----BEGIN ";

/// DER stays where it is; PEM is decoded, with one allocation of the size of the list. Text before the block, as
/// `openssl crl -text` writes it, is passed over.
pub(super) fn der_of(bytes: &[u8]) -> Result<Cow<'_, [u8]>, CrlFault> {
    // A SEQUENCE of 128 bytes or more, as every list is: no text has such a second byte at this place.
    let is_der = bytes.first() == Some(&0x30) && bytes.get(1).is_none_or(|length| *length >= 0x80);
    if is_der {
        return within(bytes.len(), MAX_CRL_BYTES).map(|()| Cow::Borrowed(bytes));
    }
    within(bytes.len(), MAX_CRL_BYTES / 2 * 3)?;
    let Some((before, body)) = split(bytes, BEGIN) else {
        return if find(bytes, ANY_BEGIN).is_some() || bytes.first() != Some(&0x30) {
            Err(CrlFault::NotACrl)
        } else {
            Ok(Cow::Borrowed(bytes))
        };
    };
    let (body, after) = split(body, END).ok_or(CrlFault::Truncated)?;
    if find(before, ANY_BEGIN).is_some() || find(after, ANY_BEGIN).is_some() {
        return Err(CrlFault::SeveralBlocks);
    }
    if !after.trim_ascii().is_empty() {
        return Err(CrlFault::TrailingBytes);
    }
    let der = BASE64_MIME.decode(body).map_err(|_| CrlFault::NotBase64)?;
    within(der.len(), MAX_CRL_BYTES)?;
    Ok(Cow::Owned(der))
}

fn within(bytes: usize, limit: usize) -> Result<(), CrlFault> {
    if bytes > limit { Err(CrlFault::TooLarge { bytes }) } else { Ok(()) }
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let found = find(bytes, at)?;
    Some((bytes.get(..found)?, bytes.get(found + at.len()..)?))
}

/// Goes from dash to dash: the base64 in between has none.
fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(rest) = bytes.get(from..) {
        let dash = rest.iter().position(|b| *b == b'-')?;
        if rest.get(dash..)?.starts_with(what) {
            return Some(from + dash);
        }
        from += dash + 1;
    }
    None
}
