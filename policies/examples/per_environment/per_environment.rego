package partnergate.custom

import rego.v1

# METADATA
# title: Environment is not described
# description: |
#   The data file does not say what holds in the environment of this gateway. One
#   policy folder for all environments must not be silent in a new one.
# custom:
#   related: [NHI6:2025, NHI8:2025, PR.AA-05]
deny contains {"reason": "x-environment-not-described"} if {
	not environment_described
}

# METADATA
# title: Label is missing in this environment
# description: The partner does not have a label that the environment asks for, or has another value.
# custom:
#   related: [NHI8:2025, PR.AA-05]
deny contains {"reason": "x-environment-label-missing"} if {
	environment_described
	some label, value in data.custom.per_environment.environments[input.environment].labels
	not input.partner.labels[label] == value
}

# METADATA
# title: Operation is closed in this environment
# description: The operation has a tag that the environment does not serve.
# custom:
#   related: [NHI8:2025, PR.AA-05]
deny contains {"reason": "x-environment-operation-closed"} if {
	environment_described
	some tag in data.custom.per_environment.environments[input.environment].closed_tags
	tag in input.request.tags
}

# METADATA
# title: The environment is described
# description: In the form that the rules here read.
environment_described if {
	rules := data.custom.per_environment.environments[input.environment]
	is_object(rules.labels)
	is_array(rules.closed_tags)
}
