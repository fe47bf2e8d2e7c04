//! The parameters of a token request (RFC 6749 section 3.2, RFC 7009 section 2.1).

/// Longest body of a request, in bytes.
pub const LONGEST_FORM: usize = 32_768;
/// Parameters of a request, known or not.
const MOST: usize = 64;

/// Parameters of the body. None stands twice, but for those that may.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Form(Vec<(String, String)>);

/// RFC 8707 section 2 and RFC 8693 section 2.1.
const REPEATED: &[&str] = &["resource", "audience"];

impl Form {
    /// Reads `application/x-www-form-urlencoded`. A parameter without a value is taken as left out.
    ///
    /// # Errors
    /// A sentence for the client's developer.
    pub fn parse(content_type: Option<&str>, body: &[u8]) -> Result<Form, &'static str> {
        let media = content_type.and_then(|value| value.split(';').next()).map(str::trim);
        if !media.is_some_and(|media| media.eq_ignore_ascii_case("application/x-www-form-urlencoded")) {
            return Err("the body is to be application/x-www-form-urlencoded");
        }
        if body.len() > LONGEST_FORM {
            return Err("the body is too long");
        }
        let mut found: Vec<(String, String)> = Vec::new();
        for (n, (name, value)) in form_urlencoded::parse(body).enumerate() {
            if n == MOST {
                return Err("there are too many parameters");
            }
            // What stands in the place of bytes that are no UTF-8, and of what nobody sends.
            let odd = |text: &str| text.contains(|c: char| c == '\u{fffd}' || c.is_control());
            if odd(&name) || odd(&value) {
                return Err("a parameter is not UTF-8, or has control characters in it");
            }
            if !REPEATED.contains(&&*name) && found.iter().any(|(other, _)| *other == name) {
                return Err("a parameter stands twice");
            }
            found.push((name.into_owned(), value.into_owned()));
        }
        found.retain(|(_, value)| !value.is_empty());
        Ok(Form(found))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Of one that may stand several times.
    pub fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests;
