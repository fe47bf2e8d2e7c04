# How well the connection is protected, from the conditions "tls_min" and
# "tls_ciphers" of a grant. The gateway itself speaks TLS 1.2 and 1.3 only; a grant
# can ask for more.
package partnergate

import rego.v1

# METADATA
# title: TLS is too weak
# description: |
#   A grant for the operation exists, and asks for a higher version of TLS or for
#   other cipher suites than the connection has.
# custom:
#   related: [NHI4:2025, PR.AA-03]
denials contains "tls-too-weak" if {
	# Judged on what was agreed on, not on what the client offers elsewhere.
	some grant in rejected_grants
	some key in ["tls_min", "tls_ciphers"]
	value = grant.conditions[key]
	not fulfilled(key, value)
}

# METADATA
# title: Version of TLS is high enough
# description: A version that is not known, on either side, is never high enough.
tls_at_least(version) if tls_versions[input.tls.version] >= tls_versions[version]

# METADATA
# title: Cipher suite is one of these
# description: Names are those of IANA, compared exactly.
tls_cipher_in(ciphers) if {
	is_array(ciphers)
	input.tls.cipher in ciphers
}

# METADATA
# title: Versions of TLS
# description: In their order.
tls_versions := {"1.2": 2, "1.3": 3}
