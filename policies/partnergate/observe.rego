# Custom rules that are only observed with a partner, while it adapts to them.
package partnergate

import rego.v1

# METADATA
# title: Only observed
# description: |
#   Reasons of custom rules whose denials do not count for this partner yet. What
#   they would have denied is in the record. Nothing else is ever observed: what a
#   grant does not permit stays denied.
# custom:
#   related: [PR.AA-05]
only_observed contains one.reason if {
	# Each ends by itself, so that none is forgotten.
	some one in input.partner.observe
	input.time.now_ns < one.until_ns
}

# METADATA
# title: Enforced custom denials
# description: Those of custom rules that are not only observed, or malformed.
# custom:
#   related: [PR.AA-05]
enforced_denials contains denial if {
	some denial in data.partnergate.custom.deny
	not is_only_observed(denial)
}

# METADATA
# title: Is only observed
# description: A denial without a reason never is.
# custom:
#   related: [PR.AA-05]
is_only_observed(denial) if denial.reason in only_observed
