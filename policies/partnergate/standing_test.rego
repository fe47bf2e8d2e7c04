package partnergate_test

import rego.v1

test_partner_in_another_state if {
	data.partnergate.decision == denied(["partner-not-active"]) with input as but({"partner": {"state": "suspended"}})
}

test_partner_without_state if {
	data.partnergate.decision == denied(["partner-not-active"]) with input as without(["partner/state"])
}

test_partner_state_is_compared_exactly if {
	data.partnergate.decision == denied(["partner-not-active"]) with input as but({"partner": {"state": "Active"}})
}

test_no_partner if {
	data.partnergate.decision == denied(["network-not-allowed", "operation-not-granted", "partner-not-active"]) with input as without(["partner"])
}

test_credential_in_another_state if {
	data.partnergate.decision == denied(["credential-not-active"]) with input as but({"credential": {"state": "suspended"}})
}

test_credential_without_state if {
	data.partnergate.decision == denied(["credential-not-active"]) with input as without(["credential/state"])
}

test_no_credential if {
	data.partnergate.decision == denied(["credential-expired", "credential-not-active", "credential-not-granted", "credential-not-yet-valid"]) with input as without(["credential"])
}
