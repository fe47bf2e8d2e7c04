//! Denying one certificate under an anchor, and taking that back.

use super::{ChangeError, Publisher, Switched, aside, interrupted, not_live};
use crate::document::Problems;
use crate::history::Cause;
use crate::name::AnchorName;
use crate::partner::{Anchor, Denied, DeniedCertificate};
use crate::registry::{Change, Registry};
use std::sync::Arc;

/// What is to become of one certificate.
#[derive(Clone, Debug)]
pub enum Denial {
    Deny(Denied),
    Undeny(DeniedCertificate),
}

impl Publisher {
    /// Denies a certificate under an anchor, or takes that back; live at once, like an entry of a revocation list.
    /// Returns what the switch came to and whether anything has changed.
    ///
    /// # Errors
    /// There is no such anchor, or the database failed; nothing was changed.
    pub async fn deny(
        self: &Arc<Self>,
        name: AnchorName,
        denial: Denial,
        cause: Cause,
    ) -> Result<(Switched, bool), ChangeError> {
        let this = self.clone();
        aside(async move { this.deny_now(&name, denial, &cause).await })
            .await
            .unwrap_or_else(|e| Err(interrupted("registry", &e)))
    }

    async fn deny_now(
        &self,
        name: &AnchorName,
        denial: Denial,
        cause: &Cause,
    ) -> Result<(Switched, bool), ChangeError> {
        let running = self.state.lock().await;
        self.catch_up_if_it_can(&running).await?;
        let Some(live) = self.live.load_full() else { return Err(not_live().into()) };
        let registry = &live.snapshot.registry;
        let Some(anchor) = registry.anchor(name) else {
            return Err(no_anchor(name, registry).into());
        };
        if let Denial::Deny(Denied { certificate: DeniedCertificate::Fingerprint(named), .. }) = &denial {
            if live.snapshot.trust.anchors().iter().any(|a| a.name == *name && a.fingerprint == *named && !a.is_pinned)
            {
                let mut problems = Problems::new();
                let reason = format!("this is the certificate of the anchor `{name}` itself");
                problems.file("registry", reason, Some("remove the anchor, or deny what is below it"));
                return Err(problems.into());
            }
        }
        let mut next = Anchor::clone(anchor);
        match denial {
            Denial::Deny(denied) => {
                if next.denied.iter().all(|d| d.certificate != denied.certificate) {
                    next.denied.push(denied);
                    next.denied.sort_by(|a, b| a.certificate.cmp(&b.certificate));
                }
            }
            Denial::Undeny(certificate) => next.denied.retain(|d| d.certificate != certificate),
        }
        if next == **anchor {
            return Ok((self.unchanged(&live).await, false));
        }
        Ok((self.switch(&live, Change::Anchor(name.clone(), Some(next)), cause).await?, true))
    }
}

/// There is none of this name; which there are.
pub fn no_anchor(name: &AnchorName, registry: &Registry) -> Problems {
    let mut problems = Problems::new();
    let known: Vec<&str> = registry.anchors().map(|a| a.name.as_str()).collect();
    let fix =
        if known.is_empty() { "there are none yet".to_owned() } else { format!("known anchors: {}", known.join(", ")) };
    problems.file("registry", format!("there is no anchor `{name}`"), Some(&fix));
    problems
}
