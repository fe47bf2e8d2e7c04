//! The ids that configuration and registry use, each a type of its own, so that a partner is never passed for a grant.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        #[schemars(extend("pattern" = "^[a-z0-9][a-z0-9_.-]{0,63}$"))]
        pub struct $name(Arc<str>);

        impl $name {
            /// See [`crate::document::parse_id`] for the form.
            ///
            /// # Errors
            /// A sentence that says what is wrong.
            pub fn parse(text: &str) -> Result<Self, String> {
                crate::document::parse_id(text).map(|t| Self(t.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

names! {
    /// A partner: the outside organisation's identity.
    PartnerId;
    /// A credential, unique in the registry.
    CredentialId;
    /// A grant, unique in the registry.
    GrantId;
    /// A named list of networks.
    NetworkName;
    /// A trust anchor.
    AnchorName;
    /// Where a gateway stands, such as `production`.
    Environment;
    /// A named group of endpoints behind the gateway.
    UpstreamName;
    /// Somebody who operates the gateway.
    OperatorName;
    /// Something that waits for approval, or has.
    ApprovalId;
}
