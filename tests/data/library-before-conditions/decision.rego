# METADATA
# title: partnergate default policy
# description: |
#   Decides every request of every partner: contract version 1. The entry point
#   is data.partnergate.decision, an object of
#
#     allow    boolean
#     reasons  sorted array of reason codes, empty when allowed
#     grant    id of the grant that permits the request, only when allowed
#
#   What may be called is in scope.rego, from where in network.rego, until when
#   in expiry.rego, and who may call at all in standing.rego. A security team
#   adds its own denials in policies/custom.
# scope: package
package partnergate

import rego.v1

# Two things shape this package.
#
# It denies by default. The only way to an allow is the one body below, and a
# required fact that is absent makes it fail. The types of the facts are the
# gateway's to keep: Rego orders values of all types, so a text in the place of a
# time would be later than every time.
#
# It runs on every request, so the allowed path is short: facts are bound once,
# conditions are written out rather than called, and the reasons of a denial are
# worked out only after the allow has failed. Because of that a condition is
# written twice, once here or in usable_grants and once as a denial. The two
# cannot disagree in the dangerous direction: a denial that is missing changes
# the reason (to policy-undefined), never the outcome.

# METADATA
# title: Nothing was decided
# description: Denied, because the policy came to neither an allow nor a reason.
default decision := {"allow": false, "reasons": ["policy-undefined"]}

# METADATA
# title: Decision
# description: |
#   Allowed when partner and credential are in good standing, the engagement is
#   running, no custom rule denies and at least one grant is usable; otherwise
#   denied with every reason that applies.
# entrypoint: true
decision := {"allow": true, "reasons": [], "grant": grant} if {
	now := input.time.now_ns
	partner := input.partner
	credential := input.credential

	partner.state == "active"
	credential.state == "active"

	# A credential always has both ends, so both must be present and hold.
	credential.not_before_ns <= now
	now < credential.not_after_ns

	# An engagement may be open on either side: only an end that is present counts.
	not partner.engagement.starts_ns > now
	not partner.engagement.ends_ns <= now

	# Equal to the empty set and nothing else: a malformed custom denial denies too.
	data.partnergate.custom.deny == set()

	# When several grants fit, the smallest id is named, so that the same request
	# always gives the same record. Without a usable grant min is undefined. That
	# is asked, not left to the assignment: regorus' virtual machine carries on
	# after an assignment from an undefined value, where other engines stop.
	grant := min(usable_grants)
	grant != ""
} else := {"allow": false, "reasons": reasons} if {
	reasons := sort(denials)
	reasons != []
}

# METADATA
# title: Denied by a custom rule
# description: The reason of each denial of package partnergate.custom.
denials contains denial.reason if {
	# Custom rules only add denials; nothing they yield can open anything.
	some denial in data.partnergate.custom.deny
}
