//! DER read where it lies: the elements of a value one after the other, nothing copied.
//!
//! Strict: definite lengths in their shortest form, tags of one octet. What is not so has a second reading somewhere.

/// One element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    /// With tag and length.
    pub whole: &'a [u8],
}

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DerFault {
    /// The bytes end inside an element.
    Short,
    /// Not the element that belongs here, or not in DER.
    Form,
}

/// Reads the elements of a value.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(content: &'a [u8]) -> Self {
        Reader { rest: content }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn next(&mut self) -> Result<Element<'a>, DerFault> {
        let [tag, first, after @ ..] = self.rest else { return Err(DerFault::Short) };
        if tag & 0x1f == 0x1f {
            return Err(DerFault::Form);
        }
        let (length, header) = match first {
            0..=0x7f => (usize::from(*first), 2),
            // Four octets of length are more than is ever read.
            0x81..=0x84 => {
                let octets = usize::from(first & 0x7f);
                let digits = after.get(..octets).ok_or(DerFault::Short)?;
                let length = digits.iter().fold(0usize, |sum, digit| (sum << 8) | usize::from(*digit));
                if length < 0x80 || digits.first() == Some(&0) {
                    return Err(DerFault::Form);
                }
                (length, 2 + octets)
            }
            _ => return Err(DerFault::Form),
        };
        let end = header.checked_add(length).ok_or(DerFault::Form)?;
        let (whole, rest) = self.rest.split_at_checked(end).ok_or(DerFault::Short)?;
        self.rest = rest;
        Ok(Element { tag: *tag, content: whole.get(header..).unwrap_or_default(), whole })
    }

    /// The next element, which must have this tag.
    pub fn expect(&mut self, tag: u8) -> Result<Element<'a>, DerFault> {
        let element = self.next()?;
        if element.tag == tag { Ok(element) } else { Err(DerFault::Form) }
    }

    /// The next element if it has this tag.
    pub fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, DerFault> {
        if self.rest.first() == Some(&tag) { self.next().map(Some) } else { Ok(None) }
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<(), DerFault> {
        if self.rest.is_empty() { Ok(()) } else { Err(DerFault::Form) }
    }
}

/// TRUE, or FALSE where somebody wrote out what is the default.
pub(super) fn boolean(content: &[u8]) -> Result<bool, DerFault> {
    match content {
        [0xff] => Ok(true),
        [0] => Ok(false),
        _ => Err(DerFault::Form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_one_form() {
        let long = [&[0x04, 0x81, 0x80][..], &[7; 0x80]].concat();
        assert_eq!(Reader::new(&long).next().unwrap().content.len(), 0x80);
        for (bytes, fault) in [
            (&[0x04, 0x80, 0, 0][..], DerFault::Form),
            (&[0x04, 0x81, 1, 7], DerFault::Form),
            (&[0x04, 0x82, 0, 0x80], DerFault::Form),
            (&[0x04, 0x85, 1, 1, 1, 1, 1], DerFault::Form),
            (&[0x04, 0x84, 0xff, 0xff, 0xff, 0xff], DerFault::Short),
            (&[0x1f, 0x01, 0], DerFault::Form),
            (&[0x04, 2, 1], DerFault::Short),
            (&[0x04], DerFault::Short),
            (&[], DerFault::Short),
        ] {
            assert_eq!(Reader::new(bytes).next(), Err(fault), "{bytes:x?}");
        }
    }
}
