# The access token that a request comes with, where it comes with one. It narrows what
# the grants permit, and opens nothing.
package partnergate

import rego.v1

# METADATA
# title: Outside of the access token
# description: |
#   The request comes with an access token that does not cover this operation by this
#   grant now. A request without one never is.
# custom:
#   related: [NHI2:2025, NHI5:2025, PR.AA-05]
outside_token(grant, operation, now) if {
	# A token in which something is missing covers nothing.
	input.token
	not within_token(grant, operation, now)
}

# METADATA
# title: Within the access token
# description: |
#   The operation is in its scope, the grant is one of those that its scope was granted
#   by, it is this partner's and has not ended.
# custom:
#   related: [NHI2:2025, NHI5:2025, PR.AA-05]
within_token(grant, operation, now) if {
	operation in input.token.scope
	grant in input.token.grants
	now < input.token.expires_ns
	input.token.subject == input.partner.id
}

# METADATA
# title: Operation is outside of the access token
# description: |
#   A grant for the operation exists, and the access token is not for the operation or
#   was not issued by that grant.
# custom:
#   related: [NHI2:2025, NHI5:2025, PR.AA-05]
denials contains "token-scope-exceeded" if {
	# Whoever asks for a narrower token is held to it.
	some grant in rejected_grants
	outside_token(grant.id, input.request.operation, input.time.now_ns)
	not token_over
}

# METADATA
# title: Access token has ended
# description: The request comes with an access token that is not good any more.
# custom:
#   related: [NHI7:2025, PR.AA-05]
denials contains "token-expired" if token_over

# METADATA
# title: The access token is over
# description: |
#   Its end has come. One that does not say when is over: below "not", engines differ
#   on a fact that is absent, so that it is given a value here.
# custom:
#   related: [NHI7:2025]
token_over if object.get(input.token, "expires_ns", 0) <= input.time.now_ns
