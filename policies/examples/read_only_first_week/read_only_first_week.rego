package partnergate.custom

import rego.v1

# METADATA
# title: Only reading in the first days
# description: |
#   The request is more than a read, and the engagement, or every grant that would
#   permit it, has begun less than the set number of days ago.
# custom:
#   related: [NHI3:2025, NHI5:2025, PR.AA-05]
deny contains {"reason": "x-read-only-first-week"} if {
	not first_week_reads
	not first_week_over
}

# METADATA
# title: The request is a read
# description: By its method, or by a tag of its operation.
first_week_reads if {
	input.request.method in data.custom.read_only_first_week.methods
} else if {
	some tag in data.custom.read_only_first_week.tags
	tag in input.request.tags
}

# METADATA
# title: The first days are over
# description: |
#   For the engagement and for a grant that permits the request. What has no start has
#   no age, and may only read.
first_week_over if {
	begun := input.time.now_ns - (((data.custom.read_only_first_week.days * 86400) * 1000) * 1000000)
	input.partner.engagement.starts_ns <= begun
	some grant in input.partner.grants
	grant.starts_ns <= begun
	grant.id in data.partnergate.usable_grants
}
