//! The CA's key as it is kept: PKCS#8 in PEM, encrypted where there is a passphrase (RFC 8018, PBES2 with scrypt).

use pkcs8::der::SecretDocument;
use pkcs8::{EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef};

const PLAIN: &str = "PRIVATE KEY";
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

/// The key of a PEM, as PKCS#8 in DER.
///
/// # Errors
/// It is none, or the passphrase does not open it; what to do.
pub fn open_key(pem: &[u8], passphrase: Option<&[u8]>) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(pem).map_err(|_| "is no PEM".to_owned())?;
    let (label, document) = SecretDocument::from_pem(text.trim_start())
        .map_err(|_| "contains no private key in PEM (PKCS#8)".to_owned())?;
    match (label, passphrase) {
        (PLAIN, None) => Ok(document.as_bytes().to_vec()),
        (PLAIN, Some(_)) => Err("is not encrypted, and a passphrase is named: take it away, or encrypt the key".into()),
        (ENCRYPTED, None) => Err("is encrypted, and no passphrase is named".into()),
        (ENCRYPTED, Some(passphrase)) => {
            let sealed = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
                .map_err(|_| "is no encrypted key in PKCS#8".to_owned())?;
            let opened =
                sealed.decrypt(trimmed(passphrase)).map_err(|_| "is not opened by the passphrase".to_owned())?;
            Ok(opened.as_bytes().to_vec())
        }
        (other, _) => Err(format!("is a `{other}`: PKCS#8 is wanted (`openssl pkcs8 -topk8`)")),
    }
}

/// A key in PKCS#8 as PEM.
///
/// # Errors
/// The system gives no random numbers.
pub fn seal_key(key: &[u8], passphrase: Option<&[u8]>) -> Result<String, String> {
    let plain = PrivateKeyInfoRef::try_from(key).map_err(|e| e.to_string())?;
    let (label, document) = match passphrase {
        None => (PLAIN, SecretDocument::try_from(&plain).map_err(|e| e.to_string())?),
        Some(passphrase) => (ENCRYPTED, plain.encrypt(trimmed(passphrase)).map_err(|e| e.to_string())?),
    };
    document.to_pem(label, LineEnding::LF).map(|pem| pem.to_string()).map_err(|e| e.to_string())
}

/// A file of one line ends in a line feed that nobody means.
fn trimmed(passphrase: &[u8]) -> &[u8] {
    passphrase.strip_suffix(b"\n").map_or(passphrase, |rest| rest.strip_suffix(b"\r").unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_opened_by_its_passphrase_alone() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_der();
        let plain = seal_key(&key, None).unwrap();
        assert_eq!(open_key(plain.as_bytes(), None), Ok(key.clone()));
        assert!(open_key(plain.as_bytes(), Some(b"x")).unwrap_err().contains("is not encrypted"));
        let sealed = seal_key(&key, Some(b"correct horse\n")).unwrap();
        assert!(sealed.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
        assert_eq!(open_key(sealed.as_bytes(), Some(b"correct horse")), Ok(key));
        assert!(open_key(sealed.as_bytes(), Some(b"battery")).unwrap_err().contains("not opened"));
        assert!(open_key(sealed.as_bytes(), None).unwrap_err().contains("no passphrase"));
        assert!(open_key(b"nothing", None).is_err());
    }
}
