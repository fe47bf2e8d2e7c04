package partnergate_test

import rego.v1

over(tls, conditions) := object.union(conditioned(conditions), {"tls": tls})

too_weak := denied(["tls-too-weak"])

# Version

test_tls_version_that_is_asked_for if {
	data.partnergate.decision == allowed("grant-1") with input as over({"version": "1.3"}, {"tls_min": "1.3"})
}

test_tls_version_that_is_higher if {
	data.partnergate.decision == allowed("grant-1") with input as over({"version": "1.3"}, {"tls_min": "1.2"})
}

test_tls_version_that_is_lower if {
	data.partnergate.decision == too_weak with input as over({"version": "1.2"}, {"tls_min": "1.3"})
}

test_lowest_tls_version if {
	data.partnergate.decision == allowed("grant-1") with input as over({"version": "1.2"}, {"tls_min": "1.2"})
}

test_tls_versions_that_are_not_known if {
	every version in ["unknown", "1.1", "1.4", "", 1.3, null] {
		data.partnergate.decision == too_weak with input as over({"version": version}, {"tls_min": "1.2"})
	}
}

test_tls_minimum_that_is_not_known if {
	every version in ["1.1", "1.0", "TLS1.2", "", 1.2, 0, null, ["1.2"], {}] {
		data.partnergate.decision == too_weak with input as over({"version": "1.3"}, {"tls_min": version})
	}
}

test_tls_minimum_without_a_version if {
	data.partnergate.decision == too_weak with input as json.remove(conditioned({"tls_min": "1.2"}), ["tls"])
}

# Cipher suites

test_cipher_suite_that_is_listed if {
	data.partnergate.decision == allowed("grant-1") with input as conditioned({"tls_ciphers": ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"]})
}

test_cipher_suite_that_is_not_listed if {
	data.partnergate.decision == too_weak with input as conditioned({"tls_ciphers": ["TLS_AES_256_GCM_SHA384"]})
}

test_cipher_suite_is_compared_exactly if {
	data.partnergate.decision == too_weak with input as conditioned({"tls_ciphers": ["TLS_AES_128_GCM", "tls_aes_128_gcm_sha256"]})
}

test_cipher_suites_of_another_form if {
	every ciphers in [[], "TLS_AES_128_GCM_SHA256", {"a": "TLS_AES_128_GCM_SHA256"}, null, 7] {
		data.partnergate.decision == too_weak with input as conditioned({"tls_ciphers": ciphers})
	}
}

test_cipher_suites_without_a_cipher_suite if {
	data.partnergate.decision == too_weak with input as json.remove(conditioned({"tls_ciphers": ["TLS_AES_128_GCM_SHA256"]}), ["tls/cipher"])
}

test_version_and_cipher_suite_are_one_reason if {
	data.partnergate.decision == too_weak with input as over({"version": "1.2"}, {"tls_min": "1.3", "tls_ciphers": ["TLS_AES_256_GCM_SHA384"]})
}
