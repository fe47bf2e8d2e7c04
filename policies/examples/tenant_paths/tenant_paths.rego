package partnergate.custom

import rego.v1

# METADATA
# title: Tenant is not the partner's
# description: |
#   The operation's path has a tenant (a parameter of that name), and it is none of
#   those in the partner's label tenants.
# custom:
#   related: [NHI5:2025, PR.AA-05]
deny contains {"reason": "x-tenant-not-owned"} if {
	input.request.params.tenant != null
	not tenant_owned
}

# METADATA
# title: Tenant is missing
# description: |
#   The operation has the tag tenant-scoped, and its path has no parameter tenant that
#   could be looked at.
# custom:
#   related: [NHI5:2025, NHI6:2025, PR.AA-05]
deny contains {"reason": "x-tenant-missing"} if {
	"tenant-scoped" in input.request.tags
	not input.request.params.tenant
}

# METADATA
# title: Tenant is the partner's
# description: |
#   Compared as the bytes that are forwarded: a tenant in another spelling is not
#   owned.
tenant_owned if {
	input.request.params.tenant != ""
	input.request.params.tenant in split(input.partner.labels.tenants, " ")
}
