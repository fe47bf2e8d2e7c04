# Who may call at all: the partner and the credential themselves.
package partnergate

import rego.v1

# METADATA
# title: Partner is not active
# description: |
#   The partner is in any state but "active": proposed, suspended, offboarded,
#   unknown to this policy, or missing.
denials contains "partner-not-active" if {
	# Naming the one good state means that a state added later denies by itself.
	not input.partner.state == "active"
}

# METADATA
# title: Credential is not active
# description: The credential is in any state but "active", or is missing.
denials contains "credential-not-active" if {
	# A suspended or replaced credential may still be inside its validity.
	not input.credential.state == "active"
}
