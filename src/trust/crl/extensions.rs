//! The extensions of a list or of an entry, each at most once.

use super::CrlFault;
use super::der::{BOOLEAN, DerFault, OCTET_STRING, OID, Reader, SEQUENCE, boolean};
use x509_parser::asn1_rs::Oid;

/// Most extensions in one place. Lists have about five, entries about two.
const MOST: usize = 16;

pub(super) struct Extension<'a> {
    pub oid: &'a [u8],
    pub critical: bool,
    pub value: &'a [u8],
}

/// Calls `with` for each extension in the content of a SEQUENCE OF Extension. `place` is for messages.
pub(super) fn each<'a>(
    content: &'a [u8],
    place: &'static str,
    mut with: impl FnMut(Extension<'a>) -> Result<(), CrlFault>,
) -> Result<(), CrlFault> {
    let form = |_: DerFault| CrlFault::Malformed("an extension cannot be read");
    let mut seen: [&[u8]; MOST] = [&[]; MOST];
    let mut reader = Reader::new(content);
    let mut count = 0;
    if reader.is_empty() {
        return Err(CrlFault::Malformed("a list of extensions is empty"));
    }
    while !reader.is_empty() {
        let mut fields = Reader::new(reader.expect(SEQUENCE).map_err(form)?.content);
        let oid = fields.expect(OID).map_err(form)?.content;
        let critical = match fields.optional(BOOLEAN).map_err(form)? {
            Some(element) => boolean(element.content).map_err(form)?,
            None => false,
        };
        let value = fields.expect(OCTET_STRING).map_err(form)?.content;
        fields.end().map_err(form)?;
        if seen.iter().take(count).any(|other| *other == oid) {
            return Err(CrlFault::DuplicateExtension { oid: dotted(oid), place });
        }
        *seen.get_mut(count).ok_or(CrlFault::Malformed("too many extensions in one place"))? = oid;
        count += 1;
        with(Extension { oid, critical, value })?;
    }
    Ok(())
}

/// Nothing is done for an extension that is not known, which is fine when it is not critical.
pub(super) fn unknown(extension: &Extension<'_>, place: &'static str) -> Result<(), CrlFault> {
    if extension.critical { Err(CrlFault::UnknownCritical { oid: dotted(extension.oid), place }) } else { Ok(()) }
}

pub(super) fn dotted(oid: &[u8]) -> String {
    Oid::new(oid.into()).to_id_string()
}
