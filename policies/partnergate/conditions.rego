# Conditions of a grant: which rule judges which. Their keys and types are declared
# in conditions.yaml.
package partnergate

import rego.v1

# METADATA
# title: Fulfilled condition
# description: |
#   One condition of a grant holds for this request. A key that is not one of the
#   library's belongs to a security team, whose rules in policies/custom judge it.
# custom:
#   related: [NHI5:2025, PR.AA-05]
fulfilled(key, value) if {
	key == "schedule"
	scheduled(value)
} else if {
	key == "tls_min"
	tls_at_least(value)
} else if {
	key == "tls_ciphers"
	tls_cipher_in(value)
} else if {
	key == "methods"
	method_in(value)
} else if {
	key == "max_content_length"
	no_longer_than(value)
} else if {
	is_string(key)
	not key in {"schedule", "tls_min", "tls_ciphers", "methods", "max_content_length"}
}
