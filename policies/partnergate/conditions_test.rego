package partnergate_test

import rego.v1

all_conditions := {
	"schedule": ["mon 10:00-11:00"],
	"tls_min": "1.3",
	"tls_ciphers": ["TLS_AES_128_GCM_SHA256"],
	"methods": ["GET"],
	"max_content_length": 10,
}

test_all_conditions_hold if {
	data.partnergate.decision == allowed("grant-1") with input as conditioned(all_conditions)
}

test_no_condition_holds if {
	data.partnergate.decision == denied([
		"content-too-large",
		"method-not-granted",
		"outside-schedule",
		"tls-too-weak",
	]) with input as object.union(conditioned(all_conditions), {
		"request": {"method": "PUT", "content_length": 11},
		"tls": {"version": "1.2", "cipher": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
		"time": {"local": {"weekday": "monday", "hour": 11, "minute": 0}},
	})
}

test_each_condition_alone_denies if {
	every key, reason in {
		"schedule": "outside-schedule",
		"tls_min": "tls-too-weak",
		"tls_ciphers": "tls-too-weak",
		"methods": "method-not-granted",
		"max_content_length": "content-too-large",
	} {
		data.partnergate.decision == denied([reason]) with input as conditioned(object.union(all_conditions, {key: "nothing that can be read"}))
	}
}

test_conditions_of_a_security_team_are_left_to_its_rules if {
	data.partnergate.decision == allowed("grant-1") with input as conditioned({"max_amount": 5, "tenants": [], "note": null})
}

test_grant_that_holds_beside_one_whose_conditions_do_not if {
	data.partnergate.decision == allowed("grant-2") with input as granted([
		grant_but({"conditions": {"methods": ["POST"]}}),
		grant_but({"id": "grant-2"}),
	])
}

test_conditions_of_two_grants_do_not_add_up_either if {
	data.partnergate.decision == denied(["method-not-granted", "outside-schedule"]) with input as granted([
		grant_but({"conditions": {"methods": ["POST"], "schedule": ["mon 10:00-11:00"]}}),
		grant_but({"id": "grant-2", "conditions": {"methods": ["GET"], "schedule": ["tue 10:00-11:00"]}}),
	])
}

test_conditions_of_grants_for_other_operations_are_no_reasons if {
	data.partnergate.decision == denied(["operation-not-granted"]) with input as granted([grant_but({"operations": ["orders.read"], "conditions": {"methods": ["POST"]}})])
}

# The gateway always says which conditions a grant has. A grant of which that is not
# known is not taken for one without.
test_grant_without_known_conditions if {
	every one in [grant_without(["conditions"]), grant_but({"conditions": null}), grant_but({"conditions": "none"}), grant_but({"conditions": ["none"]})] {
		data.partnergate.decision == denied(["policy-undefined"]) with input as granted([one])
	}
}
