# From where it may be called. Which networks hold the source address is found
# outside of policy and handed over by name; every address is in network "any".
package partnergate

import rego.v1

# METADATA
# title: Source is outside the partner's networks
# description: No network of the partner holds the source address.
denials contains "network-not-allowed" if {
	# Holds for the partner as a whole, whatever a grant says: a partner without
	# networks reaches nothing.
	not admitted_by(input.partner)
}

# METADATA
# title: Source is outside the grant's networks
# description: A grant for the operation exists, for other networks than this.
denials contains "network-not-allowed" if {
	# A grant can only narrow the networks of its partner.
	some grant in rejected_grants
	grant.networks
	not admitted_by(grant)
}

# METADATA
# title: Holder's networks hold the source
# description: |
#   The source address is in one of the networks listed by the holder, a partner
#   or a grant. Undefined when the holder lists none.
admitted_by(holder) if {
	# The source is in few networks, a holder may list many: so this way round.
	some name in input.source.networks
	name in holder.networks
}
