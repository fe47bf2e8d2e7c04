package partnergate.custom

import rego.v1

# METADATA
# title: Maintenance freeze
# description: |
#   A freeze is on, it concerns the operation, and the request is none of what goes on
#   during a freeze. A time that cannot be read neither ends nor delays it.
# custom:
#   related: [PR.AA-05]
deny contains {"reason": "x-maintenance-freeze"} if {
	# First what lets most requests through, and asks little.
	not freeze_lets_through
	freezes_listed
	some freeze in data.custom.maintenance_freeze.freezes
	not freeze_ahead(freeze)
	not freeze_over(freeze)
	freeze_concerns(freeze)
}

# METADATA
# title: Freezes cannot be read
# description: The data file has no list of freezes. Where there is none, it says so with an empty one.
# custom:
#   related: [NHI6:2025, PR.AA-05]
deny contains {"reason": "x-maintenance-freeze"} if {
	not freezes_listed
}

# METADATA
# title: Freezes can be read
# description: The data file has a list of them.
freezes_listed if is_array(data.custom.maintenance_freeze.freezes)

# METADATA
# title: The request goes on during a freeze
# description: Its method is one of those in the data file.
freeze_lets_through if input.request.method in data.custom.maintenance_freeze.methods

# METADATA
# title: The freeze has not begun
# description: Its first instant is part of it.
freeze_ahead(freeze) if input.time.now_ns < time.parse_rfc3339_ns(freeze.from)

# METADATA
# title: The freeze is over
# description: Its end is no longer part of it.
freeze_over(freeze) if time.parse_rfc3339_ns(freeze.until) <= input.time.now_ns

# METADATA
# title: The freeze concerns the operation
# description: Without tags it concerns all of them.
freeze_concerns(freeze) if {
	not is_array(object.get(freeze, "tags", null))
} else if {
	some tag in freeze.tags
	tag in input.request.tags
}
