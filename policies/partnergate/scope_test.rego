package partnergate_test

import rego.v1

# Operation

test_operation_that_no_grant_lists if {
	data.partnergate.decision == denied(["operation-not-granted"]) with input as but({"request": {"operation": "invoices.delete"}})
}

test_operation_is_compared_exactly if {
	data.partnergate.decision == denied(["operation-not-granted"]) with input as but({"request": {"operation": "invoices"}})
}

test_no_operation if {
	data.partnergate.decision == denied(["operation-not-granted"]) with input as without(["request/operation"])
}

test_no_operation_is_not_granted_by_a_grant_without_operations if {
	data.partnergate.decision == denied(["operation-not-granted"]) with input as json.remove(granted([grant_without(["operations"])]), ["request/operation"])
}

test_grant_with_empty_operations if {
	data.partnergate.decision == denied(["operation-not-granted"]) with input as granted([grant_but({"operations": []})])
}

test_grant_without_operations if {
	data.partnergate.decision == denied(["operation-not-granted"]) with input as granted([grant_without(["operations"])])
}

test_partner_with_no_grants if {
	data.partnergate.decision == denied(["operation-not-granted"]) with input as granted([])
}

test_partner_without_grants if {
	data.partnergate.decision == denied(["operation-not-granted"]) with input as without(["partner/grants"])
}

test_reasons_of_grants_for_other_operations_are_not_given if {
	data.partnergate.decision == denied(["operation-not-granted"]) with input as granted([grant_but({"operations": ["orders.read"], "ends_ns": 400})])
}

# Credentials of a grant

test_grant_for_another_credential if {
	data.partnergate.decision == denied(["credential-not-granted"]) with input as granted([grant_but({"credentials": ["cred-2"]})])
}

test_grant_with_empty_credentials if {
	data.partnergate.decision == denied(["credential-not-granted"]) with input as granted([grant_but({"credentials": []})])
}

test_grant_without_credentials_is_for_all_of_them if {
	data.partnergate.decision == allowed("grant-1") with input as granted([grant_without(["credentials"])])
}

test_credential_without_id if {
	data.partnergate.decision == denied(["credential-not-granted"]) with input as without(["credential/id"])
}

test_credential_without_id_and_grant_without_credentials if {
	data.partnergate.decision == denied(["credential-not-granted"]) with input as json.remove(granted([grant_without(["credentials"])]), ["credential/id"])
}

# Several grants

test_one_of_several_grants_fits if {
	data.partnergate.decision == allowed("grant-9") with input as granted([
		grant_but({"id": "grant-1", "operations": ["orders.read"]}),
		grant_but({"id": "grant-2", "ends_ns": 400}),
		grant_but({"id": "grant-3", "credentials": ["cred-2"]}),
		grant_but({"id": "grant-4", "networks": ["acme-dc2"]}),
		grant_but({"id": "grant-5", "starts_ns": 600}),
		grant_but({"id": "grant-9"}),
	])
}

test_several_grants_fail_each_for_its_own_reason if {
	data.partnergate.decision == denied(["credential-not-granted", "grant-expired", "grant-not-started", "network-not-allowed"]) with input as granted([
		grant_but({"id": "grant-1", "operations": ["orders.read"]}),
		grant_but({"id": "grant-2", "ends_ns": 400}),
		grant_but({"id": "grant-3", "credentials": ["cred-2"]}),
		grant_but({"id": "grant-4", "networks": ["acme-dc2"]}),
		grant_but({"id": "grant-5", "starts_ns": 600}),
	])
}

test_one_grant_fails_for_several_reasons if {
	data.partnergate.decision == denied(["credential-not-granted", "grant-expired"]) with input as granted([grant_but({"credentials": ["cred-2"], "ends_ns": 400})])
}

test_conditions_of_two_grants_do_not_add_up if {
	data.partnergate.decision == denied(["grant-expired", "network-not-allowed"]) with input as granted([
		grant_but({"id": "grant-1", "ends_ns": 400}),
		grant_but({"id": "grant-2", "networks": ["acme-dc2"]}),
	])
}

test_failing_grants_are_not_reasons_beside_a_usable_one if {
	data.partnergate.decision == denied(["partner-not-active"]) with input as object.union(granted([grant, grant_but({"id": "grant-2", "ends_ns": 400})]), {"partner": {"state": "suspended"}})
}
