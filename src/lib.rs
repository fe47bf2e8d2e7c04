//! partnergate
pub mod clock;
pub mod decision;
pub mod document;
pub mod identity;
pub mod name;
pub mod operation;
pub mod partner;
pub mod policy;
pub mod reason;
pub mod registry;
pub mod request;
pub mod route;
pub mod snapshot;
pub mod trust;
