package partnergate_test

import rego.v1

observing(reasons) := but({"partner": {"observe": [{"reason": reason, "until_ns": 600} | some reason in reasons]}})

test_observed_denial_is_named_and_does_not_deny if {
	data.partnergate.decision == observed_only(["x-a"]) with input as observing(["x-a", "x-b"]) with data.partnergate.custom.deny as {{"reason": "x-a"}}
}

test_each_observed_denial_is_named if {
	data.partnergate.decision == observed_only(["x-a", "x-b"]) with input as observing(["x-a", "x-b"]) with data.partnergate.custom.deny as {{"reason": "x-b"}, {"reason": "x-a"}}
}

test_without_denials_nothing_is_observed if {
	data.partnergate.decision == allowed("grant-1") with input as observing(["x-a"])
}

test_another_denial_denies_with_all_of_them if {
	data.partnergate.decision == denied(["x-a", "x-c"]) with input as observing(["x-a", "x-b"]) with data.partnergate.custom.deny as {{"reason": "x-a"}, {"reason": "x-c"}}
}

test_nobody_else_is_observed if {
	data.partnergate.decision == denied(["x-a"]) with input as request with data.partnergate.custom.deny as {{"reason": "x-a"}}
}

test_it_ends_by_itself if {
	data.partnergate.decision == denied(["x-a"]) with input as object.union(observing(["x-a"]), {"time": {"now_ns": 600}}) with data.partnergate.custom.deny as {{"reason": "x-a"}}
}

test_denial_without_a_reason_is_never_observed if {
	data.partnergate.decision == denied(["policy-undefined"]) with input as observing(["x-a"]) with data.partnergate.custom.deny as {{"code": "x-a"}}
}

test_what_no_grant_permits_is_never_observed if {
	data.partnergate.decision == denied(["operation-not-granted", "x-a"]) with input as object.union(observing(["x-a", "operation-not-granted"]), {"request": {"operation": "invoices.delete"}}) with data.partnergate.custom.deny as {{"reason": "x-a"}}
}

test_who_is_suspended_is_never_observed if {
	data.partnergate.decision == denied(["partner-not-active", "x-a"]) with input as object.union(observing(["x-a", "partner-not-active"]), {"partner": {"state": "suspended"}}) with data.partnergate.custom.deny as {{"reason": "x-a"}}
}

observed_only(reasons) := {"allow": true, "reasons": [], "grant": "grant-1", "observed": reasons}
