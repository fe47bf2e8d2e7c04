package partnergate_test

import rego.v1

token := {
	"issuer": "https://api.partners.example.com",
	"subject": "acme",
	"audience": "billing",
	"scope": ["invoices.read", "orders.read"],
	"grants": ["grant-1"],
	"id": "0199-1",
	"issued_ns": 400,
	"expires_ns": 600,
}

with_token(changes) := but({"token": object.union(token, changes), "credential": {"kind": "token"}})

test_token_that_covers_the_request if {
	data.partnergate.decision == allowed("grant-1") with input as with_token({})
}

test_token_for_another_operation if {
	data.partnergate.decision == denied(["token-scope-exceeded"]) with input as with_token({"scope": ["orders.read"]})
}

test_token_by_another_grant if {
	data.partnergate.decision == denied(["token-scope-exceeded"]) with input as with_token({"grants": ["grant-9"]})
}

test_token_of_another_partner if {
	data.partnergate.decision == denied(["token-scope-exceeded"]) with input as with_token({"subject": "globex"})
}

test_token_ends_at_its_end if {
	data.partnergate.decision == allowed("grant-1") with input as with_token({"expires_ns": 501})
	data.partnergate.decision == denied(["token-expired"]) with input as with_token({"expires_ns": 500})
}

test_token_in_which_something_is_missing_covers_nothing if {
	every key in ["scope", "grants", "subject"] {
		data.partnergate.decision == denied(["token-scope-exceeded"]) with input as object.union(request, {"token": object.remove(token, [key])})
	}
	data.partnergate.decision == denied(["token-expired"]) with input as object.union(request, {"token": object.remove(token, ["expires_ns"])})
}

test_empty_token_covers_nothing if {
	data.partnergate.decision == denied(["token-expired"]) with input as object.union(request, {"token": {}})
}

test_token_picks_the_grant_that_it_was_issued_by if {
	data.partnergate.decision == allowed("grant-2") with input as object.union(
		granted([grant, grant_but({"id": "grant-2"})]),
		{"token": object.union(token, {"grants": ["grant-2"]})},
	)
}

test_token_opens_nothing_that_is_not_granted if {
	data.partnergate.decision == denied(["operation-not-granted"]) with input as object.union(
		granted([grant_but({"operations": ["orders.list"]})]),
		{"token": token},
	)
}
