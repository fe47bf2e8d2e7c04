package partnergate_test

import rego.v1

api_key := {
	"id": "acme-batch",
	"owner": "billing-team",
	"grants": ["grant-1"],
	"operations": ["invoices.read", "orders.read"],
	"networks": ["acme-dc1"],
	"ends_ns": 600,
}

with_key(changes) := but({"api_key": object.union(api_key, changes), "credential": {"kind": "api-key"}})

key_without(names) := object.union(request, {"api_key": object.remove(api_key, names)})

test_key_that_covers_the_request if {
	data.partnergate.decision == allowed("grant-1") with input as with_key({})
}

test_key_that_names_nothing_is_for_what_its_grants_are_for if {
	data.partnergate.decision == allowed("grant-1") with input as key_without(["operations", "networks"])
}

test_key_for_another_operation if {
	data.partnergate.decision == denied(["api-key-scope-exceeded"]) with input as with_key({"operations": ["orders.read"]})
	data.partnergate.decision == denied(["api-key-scope-exceeded"]) with input as with_key({"operations": []})
}

test_key_for_another_grant if {
	data.partnergate.decision == denied(["api-key-scope-exceeded"]) with input as with_key({"grants": ["grant-9"]})
}

test_key_from_another_network if {
	data.partnergate.decision == denied(["network-not-allowed"]) with input as with_key({"networks": ["elsewhere"]})
	data.partnergate.decision == denied(["network-not-allowed"]) with input as with_key({"networks": []})
}

test_key_ends_at_its_end if {
	data.partnergate.decision == allowed("grant-1") with input as with_key({"ends_ns": 501})
	data.partnergate.decision == denied(["api-key-expired"]) with input as with_key({"ends_ns": 500})
}

test_key_in_which_something_is_missing_covers_nothing if {
	data.partnergate.decision == denied(["api-key-scope-exceeded"]) with input as key_without(["grants"])
	data.partnergate.decision == denied(["api-key-expired"]) with input as key_without(["ends_ns"])
	data.partnergate.decision == denied(["api-key-expired"]) with input as object.union(request, {"api_key": {}})
}

test_key_picks_the_grant_that_it_is_for if {
	data.partnergate.decision == allowed("grant-2") with input as object.union(
		granted([grant, grant_but({"id": "grant-2"})]),
		{"api_key": object.union(api_key, {"grants": ["grant-2"]})},
	)
}

test_key_opens_nothing_that_is_not_granted if {
	data.partnergate.decision == denied(["operation-not-granted"]) with input as object.union(
		granted([grant_but({"operations": ["orders.list"]})]),
		{"api_key": api_key},
	)
}

test_token_and_key_both_narrow if {
	both := object.union(with_key({}), {"token": token})
	data.partnergate.decision == allowed("grant-1") with input as both
	data.partnergate.decision == denied(["api-key-scope-exceeded"]) with input as object.union(both, {"api_key": {"operations": ["orders.read"]}})
	data.partnergate.decision == denied(["token-scope-exceeded"]) with input as object.union(both, {"token": {"scope": ["orders.read"]}})
}
