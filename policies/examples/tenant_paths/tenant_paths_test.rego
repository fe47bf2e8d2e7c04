package partnergate.custom.tenant_paths_test

import rego.v1

called(params, labels) := {
	"partner": {"labels": labels},
	"request": {"params": params, "tags": ["tenant-scoped"]},
}

two := {"tenants": "t-17 t-23"}

found := {denial.reason | some denial in data.partnergate.custom.deny; startswith(denial.reason, "x-tenant-")}

test_first_tenant if {
	found == set() with input as called({"tenant": "t-17", "id": "1"}, two)
}

test_second_tenant if {
	found == set() with input as called({"tenant": "t-23"}, two)
}

test_tenant_of_another_partner if {
	found == {"x-tenant-not-owned"} with input as called({"tenant": "t-18"}, two)
}

test_tenants_are_compared_whole if {
	every tenant in ["t-1", "t-17 t-23", "T-17", "t-17%20", "t%2d17"] {
		found == {"x-tenant-not-owned"} with input as called({"tenant": tenant}, two)
	}
}

test_partner_without_the_label if {
	found == {"x-tenant-not-owned"} with input as called({"tenant": "t-17"}, {})
}

test_partner_without_labels if {
	found == {"x-tenant-not-owned"} with input as {"request": {"params": {"tenant": "t-17"}}}
}

test_empty_tenant if {
	every tenants in ["", " ", "t-17  t-23"] {
		found == {"x-tenant-not-owned"} with input as called({"tenant": ""}, {"tenants": tenants})
	}
}

test_operation_without_a_tenant if {
	found == set() with input as {"partner": {"labels": two}, "request": {"params": {"id": "1"}, "tags": ["orders"]}}
}

test_tenant_scoped_operation_without_a_tenant if {
	found == {"x-tenant-missing"} with input as called({"id": "1"}, two)
}

test_tenant_scoped_operation_without_parameters if {
	found == {"x-tenant-missing"} with input as {"request": {"tags": ["tenant-scoped"]}}
}

test_unknown_operation if {
	found == set() with input as {"request": {"method": "GET"}}
}
