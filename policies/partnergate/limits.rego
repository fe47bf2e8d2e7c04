# How much of an operation a grant permits: its methods and the size of bodies, from
# the conditions "methods" and "max_content_length".
package partnergate

import rego.v1

# METADATA
# title: Method is not granted
# description: A grant for the operation exists, for other methods than this.
# custom:
#   related: [NHI5:2025, PR.AA-05]
denials contains "method-not-granted" if {
	# A grant by "invoices.*" or by tag may hold more than its owner thinks of.
	some grant in rejected_grants
	methods = grant.conditions.methods
	not method_in(methods)
}

# METADATA
# title: Length of the body is not known
# description: |
#   A grant for the operation limits the size of bodies, and the request has one whose
#   length it does not say.
# custom:
#   related: [NHI5:2025, PR.AA-05]
denials contains "content-length-missing" if {
	# Policy decides before the body arrives: what has no length could have any. The
	# length that is stated is kept to: a body that is longer is cut off by the rules
	# of HTTP. A request without a body has length 0.
	some grant in rejected_grants
	grant.conditions.max_content_length != null
	not length_stated
}

# METADATA
# title: The request says the length of its body
# description: 0 where there is no body.
length_stated if input.request.content_length >= 0

# METADATA
# title: Body is too large
# description: A grant for the operation exists, for smaller bodies than this.
# custom:
#   related: [NHI5:2025, PR.AA-05]
denials contains "content-too-large" if {
	# The route's max_body holds for everybody, and counts the bytes that arrive.
	some grant in rejected_grants
	most = grant.conditions.max_content_length
	input.request.content_length >= 0
	not no_longer_than(most)
}

# METADATA
# title: Method is one of these
# description: Compared exactly. HEAD is not part of GET.
method_in(methods) if {
	is_array(methods)
	input.request.method in methods
}

# METADATA
# title: Body is no longer than this
# description: In bytes, this included. Rego orders text after numbers, so it must be one.
no_longer_than(most) if {
	is_number(most)
	input.request.content_length <= most
}
