# METADATA
# title: partnergate default policy
# description: |
#   Decides every request of every partner: contract version 1. The entry point
#   is data.partnergate.decision, an object of
#
#     allow    boolean
#     reasons  sorted array of reason codes, empty when allowed
#     grant    id of the grant that permits the request, only when allowed
#     observed custom denials of which this partner is only observed, only when
#              allowed in spite of them
#
#   Who may call at all is in standing.rego, what may be called in scope.rego, from
#   where in network.rego and until when in expiry.rego. What a grant asks for beyond
#   that, its conditions, is in schedule.rego, tls.rego and limits.rego; what an access
#   token leaves of it, in token.rego, and an API key, in api_key.rego. A security team
#   adds its own denials in policies/custom.
#
#   custom.related of a rule names what it helps to fulfil: items of the OWASP
#   Non-Human Identities Top 10 (NHI5:2025) and of the NIST Cybersecurity Framework
#   2.0 (PR.AA-05).
# scope: package
package partnergate

import rego.v1

# Two things shape this package.
#
# It denies by default. An allow takes all that permitted asks, and a required fact
# that is absent makes it fail. The types of the facts are the
# gateway's to keep: Rego orders values of all types, so a text in the place of a
# time would be later than every time.
#
# It runs on every request, so the allowed path is short: facts are bound once,
# conditions are written out rather than called, and the reasons of a denial are
# worked out only after the allow has failed. Because of that a condition is
# written twice, once for the allow or in usable_grants and once as a denial. The two
# cannot disagree in the dangerous direction: a denial that is missing changes
# the reason (to policy-undefined), never the outcome.

# METADATA
# title: Nothing was decided
# description: Denied, because the policy came to neither an allow nor a reason.
# custom:
#   related: [NHI6:2025, PR.AA-05]
default decision := {"allow": false, "reasons": ["policy-undefined"]}

# METADATA
# title: Decision
# description: |
#   Allowed when the request is permitted and no custom rule denies, or each that
#   does is one of which this partner is only observed; otherwise denied with
#   every reason that applies.
# entrypoint: true
# custom:
#   related: [NHI5:2025, PR.AA-05]
decision := {"allow": true, "reasons": [], "grant": grant} if {
	# What permitted asks, written out: nearly every request ends here, and a rule that
	# leads to it costs more than all that it asks. One that comes with an access token, or
	# with an API key, is decided below.
	not input.token
	not input.api_key
	now := input.time.now_ns
	partner := input.partner
	credential := input.credential
	partner.state == "active"
	credential.state == "active"
	credential.not_before_ns <= now
	now < credential.not_after_ns
	object.get(partner, ["engagement", "starts_ns"], now) <= now
	object.get(partner, ["engagement", "ends_ns"], now + 1) > now
	grant := min(usable_grants)
	grant != ""

	# Equal to the empty set and nothing else: a malformed custom denial denies too.
	data.partnergate.custom.deny == set()
} else := {"allow": true, "reasons": [], "grant": permitted} if {
	permitted != ""
	data.partnergate.custom.deny == set()
} else := {"allow": true, "reasons": [], "grant": permitted, "observed": observed} if {
	permitted != ""

	# One without a reason, or with another one, keeps all of them in force.
	enforced_denials == set()
	observed := sort({denial.reason | some denial in data.partnergate.custom.deny})
	observed != []
} else := {"allow": false, "reasons": reasons} if {
	reasons := sort(denials)
	reasons != []
}

# METADATA
# title: Permitted but for custom rules
# description: |
#   The grant that permits the request: partner and credential are in good
#   standing, the engagement is running, at least one grant is usable, and an access
#   token and an API key leave it.
# custom:
#   related: [NHI5:2025, PR.AA-05]
permitted := grant if {
	now := input.time.now_ns
	partner := input.partner
	credential := input.credential

	partner.state == "active"
	credential.state == "active"

	# A credential always has both ends, so both must be present and hold.
	credential.not_before_ns <= now
	now < credential.not_after_ns

	# An engagement may be open on either side: only an end that is present counts. An
	# absent one is given a value, since below "not" engines differ on it.
	object.get(partner, ["engagement", "starts_ns"], now) <= now
	object.get(partner, ["engagement", "ends_ns"], now + 1) > now

	# When several grants fit, the smallest id is named, so that the same request
	# always gives the same record. Without a usable grant min is undefined. That
	# is asked, not left to the assignment: regorus' virtual machine carries on
	# after an assignment from an undefined value, where other engines stop.
	grant := min(key_grants)
	grant != ""
}

# METADATA
# title: Denied by a custom rule
# description: The reason of each denial of package partnergate.custom.
# custom:
#   related: [PR.AA-05]
denials contains denial.reason if {
	# Custom rules only add denials; nothing they yield can open anything.
	some denial in data.partnergate.custom.deny
}

# library: api_key.rego conditions.rego conditions.yaml custom_default.rego expiry.rego limits.rego network.rego observe.rego schedule.rego scope.rego standing.rego tls.rego token.rego
