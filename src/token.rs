//! What the gateway signs itself: its keys, and the signed identity that upstreams are given.
//!
//! In: keys as the database has them, and the secret that opens them. Out: a [`Ring`] that says which key signs at a time
//! and which still verify, and an assertion for an allowed request. Which key counts follows from the time and waits for
//! no write. Must never: do I/O; sign anything for a request that was not allowed; give the private half of a key away.

mod assertion;
mod key;

pub use assertion::{ASSERTION_LIFETIME, Asserted, Assertions};
pub use key::{Due, Ring, Rotation, StoredKey, WithdrawnKey};

#[cfg(test)]
mod tests;
