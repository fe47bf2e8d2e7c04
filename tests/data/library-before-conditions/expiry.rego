# Until when. Every period holds its first instant and not its last: at starts_ns
# it has begun, at ends_ns it is over. Two periods that meet neither overlap nor
# leave a gap. All times are nanoseconds since the epoch.
package partnergate

import rego.v1

# METADATA
# title: Credential is not yet valid
# description: The request came before not_before_ns, or that is missing.
denials contains "credential-not-yet-valid" if {
	# Asked as "not valid", so that a missing time denies instead of passing.
	not input.credential.not_before_ns <= input.time.now_ns
}

# METADATA
# title: Credential has expired
# description: The request came at or after not_after_ns, or that is missing.
denials contains "credential-expired" if {
	# A credential without an end is refused: it would outlive its owner.
	not input.time.now_ns < input.credential.not_after_ns
}

# METADATA
# title: Engagement has not started
# description: The business relationship begins later.
denials contains "engagement-not-started" if {
	# Onboarding ahead of time must not open the door ahead of time.
	input.partner.engagement.starts_ns > input.time.now_ns
}

# METADATA
# title: Engagement has ended
# description: The business relationship is over.
denials contains "engagement-ended" if {
	# Nothing of a partner outlives the engagement, whatever its grants say.
	input.partner.engagement.ends_ns <= input.time.now_ns
}

# METADATA
# title: Grant has not started
# description: A grant for the operation exists and begins later.
denials contains "grant-not-started" if {
	# A grant without a start has begun.
	some grant in rejected_grants
	grant.starts_ns > input.time.now_ns
}

# METADATA
# title: Grant has expired
# description: A grant for the operation exists and is over.
denials contains "grant-expired" if {
	# A grant without an end lasts as long as the engagement.
	some grant in rejected_grants
	grant.ends_ns <= input.time.now_ns
}
