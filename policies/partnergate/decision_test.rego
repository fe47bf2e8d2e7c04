package partnergate_test

import rego.v1

test_allowed_with_the_grant_that_permits_it if {
	data.partnergate.decision == allowed("grant-1") with input as request
}

test_denied_with_every_reason_sorted if {
	data.partnergate.decision == denied([
		"credential-not-active",
		"engagement-ended",
		"operation-not-granted",
		"partner-not-active",
	]) with input as but({"partner": {"state": "suspended", "engagement": {"ends_ns": 400}}, "credential": {"state": "revoked"}, "request": {"operation": "invoices.delete"}})
}

test_empty_input_is_denied if {
	data.partnergate.decision == denied([
		"credential-expired",
		"credential-not-active",
		"credential-not-yet-valid",
		"network-not-allowed",
		"operation-not-granted",
		"partner-not-active",
	]) with input as {}
}

test_several_usable_grants_give_the_smallest_id if {
	data.partnergate.decision == allowed("grant-1") with input as granted([grant_but({"id": "grant-3"}), grant, grant_but({"id": "grant-2"})])
}

test_a_grant_without_id_decides_nothing if {
	data.partnergate.decision == denied(["policy-undefined"]) with input as granted([grant_without(["id"])])
}

# Custom denials

test_custom_denial_denies if {
	data.partnergate.decision == denied(["x-night"]) with input as request with data.partnergate.custom.deny as {{"reason": "x-night"}}
}

test_custom_denials_join_the_other_reasons if {
	data.partnergate.decision == denied(["partner-not-active", "x-a", "x-b"]) with input as but({"partner": {"state": "suspended"}}) with data.partnergate.custom.deny as {{"reason": "x-b"}, {"reason": "x-a"}}
}

test_custom_denial_without_reason_denies if {
	data.partnergate.decision == denied(["policy-undefined"]) with input as request with data.partnergate.custom.deny as {{"code": "x-a"}}
}

test_custom_denial_of_another_type_denies if {
	data.partnergate.decision == denied(["policy-undefined"]) with input as request with data.partnergate.custom.deny as {"x-a"}
}

test_without_custom_rules_nothing_is_denied_by_them if {
	data.partnergate.custom.deny == set() with input as request
}
