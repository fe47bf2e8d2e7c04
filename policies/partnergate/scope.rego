# What may be called: operations, grants, and the credentials a grant is for.
package partnergate

import rego.v1

# METADATA
# title: Usable grants
# description: |
#   Ids of the partner's grants that permit this request completely: operation,
#   credential, network, time and its own conditions. One is enough. What an access
#   token leaves of them is in token_grants.
# custom:
#   related: [NHI5:2025, PR.AA-05]
usable_grants contains id if {
	now := input.time.now_ns
	operation := input.request.operation
	credential := input.credential.id
	source_networks := input.source.networks
	partner_networks := input.partner.networks

	# Without the time no period can be judged. Asked here because regorus' virtual
	# machine carries on after an assignment from an undefined value.
	now > 0

	# First the condition that rejects most grants. A request that matched no known
	# operation carries none, so nothing is usable for it.
	some grant in input.partner.grants
	operation in grant.operations
	id := grant.id

	# A grant may be open on either side: only an end that is present counts.
	object.get(grant, "starts_ns", now) <= now
	object.get(grant, "ends_ns", now + 1) > now

	# A grant without a list is for every credential of the partner; an empty list
	# is for none.
	credential in object.get(grant, "credentials", [credential])

	# A grant without a list has the partner's networks; an empty list admits none.
	grant_networks := object.get(grant, "networks", partner_networks)

	# Two names, since the grant may name a part of what the partner has: "any" on
	# the partner and one data centre on the grant, for example.
	some partner_network in source_networks
	partner_network in partner_networks
	some grant_network in source_networks
	grant_network in grant_networks

	# Last, since few grants have any: of one without conditions nothing is asked.
	every key, value in grant.conditions {
		fulfilled(key, value)
	}
}

# METADATA
# title: Grants for the operation
# description: The partner's grants that list the operation of this request.
# custom:
#   related: [NHI5:2025, PR.AA-05]
grants_for_operation contains grant if {
	# The grants whose failure is worth explaining; the others were never meant.
	some grant in input.partner.grants
	input.request.operation in grant.operations
}

# METADATA
# title: Rejected grants
# description: |
#   The grants for the operation, when not one of them is usable. Each gives its
#   own reasons, so a denial names all that stands in the way of any of them.
# custom:
#   related: [PR.AA-05]
rejected_grants contains grant if {
	# With one usable grant the others are not why the request was denied.
	count(usable_grants) == 0
	some grant in grants_for_operation
}

# METADATA
# title: Operation is not granted
# description: |
#   No grant of the partner lists the operation, or the request matched no
#   known operation.
# custom:
#   related: [NHI5:2025, PR.AA-05]
denials contains "operation-not-granted" if {
	# Scope is the minimum: what no grant names is not reachable.
	count(grants_for_operation) == 0
}

# METADATA
# title: Grant is for other credentials
# description: A grant for the operation exists, for other credentials than this.
# custom:
#   related: [NHI5:2025, NHI9:2025, PR.AA-05]
denials contains "credential-not-granted" if {
	# One partner has several credentials so that they can have different rights.
	some grant in rejected_grants
	not for_credential(grant)
}

# METADATA
# title: Grant is for this credential
# description: It lists the credential, or none at all.
for_credential(grant) if input.credential.id in object.get(grant, "credentials", [input.credential.id])
