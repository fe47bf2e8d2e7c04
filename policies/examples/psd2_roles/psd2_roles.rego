package partnergate.custom

import rego.v1

# The roles of a payment service provider (PSD2, ETSI TS 119 495) come from labels of
# the credential, not from its certificate: input has no qcStatements. Whoever
# registers the certificate reads them there.

# METADATA
# title: Role of the payment service provider is missing
# description: |
#   The operation has a tag that asks for a role, and the label psd2_roles of the
#   credential does not list it.
# custom:
#   related: [NHI5:2025, PR.AA-05]
deny contains {"reason": "x-psd2-role-missing"} if {
	some tag in input.request.tags
	role := data.custom.psd2_roles.roles[tag]
	role != null
	not psd2_has(role)
}

# METADATA
# title: Certificate is of another payment service provider
# description: |
#   The operation has a tag that asks for a role, and the subject of the certificate
#   does not have the organizationIdentifier that the label psd2_id says.
# custom:
#   related: [NHI4:2025, PR.AA-02]
deny contains {"reason": "x-psd2-identity-mismatch"} if {
	some tag in input.request.tags
	data.custom.psd2_roles.roles[tag] != null
	not psd2_identity_holds
}

# METADATA
# title: The provider has the role
# description: The label psd2_roles lists it.
psd2_has(role) if role in split(input.credential.labels.psd2_roles, " ")

# METADATA
# title: organizationIdentifier is the registered one
# description: |
#   One whole part of the subject (RFC 4514). A comma that belongs to a value has a
#   backslash before it, so that what follows is not taken for a part.
psd2_identity_holds if {
	input.credential.labels.psd2_id != ""
	parts := split(input.credential.subject, ",")
	some place, part in parts
	split(part, "=") == ["organizationIdentifier", input.credential.labels.psd2_id]
	not psd2_continued(parts, place)
}

# METADATA
# title: The part goes on the value before it
# description: The comma between them belongs to that value.
psd2_continued(parts, place) if endswith(parts[place - 1], "\\")
