# The access token that a request comes with, where it comes with one. It narrows what
# the grants permit, and opens nothing.
package partnergate

import rego.v1

# METADATA
# title: Usable grants that the access token leaves
# description: |
#   Those of the usable grants that the access token was issued by, for an operation in
#   its scope; all of them where the request comes without one.
# custom:
#   related: [NHI2:2025, NHI5:2025, PR.AA-05]
token_grants contains id if {
	some id in usable_grants
	not outside_token(id)
}

# METADATA
# title: Outside of the access token
# description: There is one, and it does not cover this operation by this grant now.
outside_token(grant) if {
	# One in which something is missing covers nothing.
	input.token
	not within_token(grant)
}

# METADATA
# title: Within the access token
# description: |
#   The operation is in its scope, the grant is one of those that its scope was granted
#   by, it is this partner's and has not ended.
within_token(grant) if {
	input.request.operation in input.token.scope
	grant in input.token.grants
	input.time.now_ns < input.token.expires_ns
	input.token.subject == input.partner.id
}

# METADATA
# title: Operation is outside of the access token
# description: |
#   A usable grant exists, and the access token is not for the operation or was not
#   issued by that grant.
# custom:
#   related: [NHI2:2025, NHI5:2025, PR.AA-05]
denials contains "token-scope-exceeded" if {
	# Whoever asks for a narrower token is held to it.
	count(usable_grants) > 0
	count(token_grants) == 0
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
