//! partnergate
pub mod clock;
pub mod document;
pub mod identity;
pub mod name;
pub mod reason;
