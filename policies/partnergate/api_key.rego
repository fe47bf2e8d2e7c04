# The API key that a request comes with, or that its access token was given for. It
# narrows what the grants permit, and opens nothing.
package partnergate

import rego.v1

# METADATA
# title: Usable grants that the API key leaves
# description: |
#   Those of the usable grants, as far as an access token leaves them, that the API key
#   is for; all of them where the request comes without one.
# custom:
#   related: [NHI2:2025, NHI5:2025, PR.AA-05]
key_grants contains id if {
	some id in token_grants
	not outside_key(id)
}

# METADATA
# title: Outside of the API key
# description: There is one, and it is not for this operation by this grant from here now.
outside_key(grant) if {
	# One in which something is missing covers nothing.
	input.api_key
	not within_key(grant)
}

# METADATA
# title: Within the API key
# description: |
#   The grant is one of those that it is for, the operation is one of those that it names
#   if it names any, and so is the network; its end is still to come.
within_key(grant) if {
	grant in input.api_key.grants
	key_covers
	key_admits
	input.time.now_ns < input.api_key.ends_ns
}

# METADATA
# title: The API key is for the operation
# description: It names the operation, or none at all, and then all that its grants cover.
key_covers if input.request.operation in object.get(input.api_key, "operations", [input.request.operation])

# METADATA
# title: The API key may come from here
# description: A network that it names holds the source address, or it names none at all.
key_admits if {
	some name in input.source.networks
	name in object.get(input.api_key, "networks", [name])
}

# METADATA
# title: Operation is outside of the API key
# description: |
#   A usable grant exists, and the API key is not for it, or not for the operation.
# custom:
#   related: [NHI2:2025, NHI5:2025, PR.AA-05]
denials contains "api-key-scope-exceeded" if {
	# Whoever asks for a narrower key is held to it.
	count(token_grants) > 0
	count(key_grants) == 0
	key_admits
	not key_over
}

# METADATA
# title: Source is outside of the API key's networks
# description: The API key names networks, and none of them holds the source address.
# custom:
#   related: [NHI2:2025, PR.AA-05]
denials contains "network-not-allowed" if {
	input.api_key
	not key_admits
}

# METADATA
# title: API key has ended
# description: The request comes with an API key that is not good any more.
# custom:
#   related: [NHI7:2025, PR.AA-05]
denials contains "api-key-expired" if key_over

# METADATA
# title: The API key is over
# description: |
#   Its end has come. One that does not say when is over: below "not", engines differ
#   on a fact that is absent, so that it is given a value here.
# custom:
#   related: [NHI7:2025]
key_over if object.get(input.api_key, "ends_ns", 0) <= input.time.now_ns
