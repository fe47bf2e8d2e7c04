//! JSON Web Signatures and the keys that they are made and verified with (RFC 7515, 7517, 7518, 8037).
//!
//! In: tokens in their compact form and keys from PEM, PKCS #8 or a JWKS. Out: what was signed, once the signature is
//! good. Must never: let a token choose its key's kind or its algorithm; follow an address in a token (`jku`, `x5u`) or
//! take a key out of one (`jwk`, `x5c`); know a symmetric key.

mod compact;
mod json;
mod jwk;
mod key;

pub use compact::{Header, Jws, Malformed, sign};
pub use json::object;
pub use jwk::{JwkError, Jwks, KnownKey, public_jwk, thumbprint};
pub use key::{Algorithm, Asymmetric, PublicKey, SignKey, VerifyKey};

#[cfg(test)]
mod tests;
