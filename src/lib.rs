//! partnergate
pub mod clock;
pub mod document;
pub mod identity;
pub mod name;
pub mod operation;
pub mod partner;
pub mod reason;
pub mod registry;
pub mod request;
pub mod trust;
