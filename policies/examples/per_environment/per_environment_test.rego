package partnergate.custom.per_environment_test

import rego.v1

environments := {
	"production": {"labels": {"certified": "yes"}, "closed_tags": ["experimental"]},
	"staging": {"labels": {}, "closed_tags": []},
}

called(environment, labels, tags) := {
	"environment": environment,
	"partner": {"labels": labels},
	"request": {"tags": tags},
}

certified := {"certified": "yes"}

found := {denial.reason | some denial in data.partnergate.custom.deny; startswith(denial.reason, "x-environment-")}

test_certified_partner_in_production if {
	found == set() with input as called("production", certified, ["invoices"]) with data.custom.per_environment.environments as environments
}

test_partner_without_the_label if {
	found == {"x-environment-label-missing"} with input as called("production", {}, []) with data.custom.per_environment.environments as environments
}

test_partner_with_another_value if {
	found == {"x-environment-label-missing"} with input as called("production", {"certified": "no"}, []) with data.custom.per_environment.environments as environments
}

test_partner_without_labels if {
	found == {"x-environment-label-missing"} with input as {"environment": "production"} with data.custom.per_environment.environments as environments
}

test_closed_operation if {
	found == {"x-environment-operation-closed"} with input as called("production", certified, ["a", "experimental"]) with data.custom.per_environment.environments as environments
}

test_operation_without_tags if {
	found == set() with input as {"environment": "production", "partner": {"labels": certified}} with data.custom.per_environment.environments as environments
}

test_everything_in_staging if {
	found == set() with input as called("staging", {}, ["experimental"]) with data.custom.per_environment.environments as environments
}

test_environment_that_is_not_described if {
	found == {"x-environment-not-described"} with input as called("test", certified, []) with data.custom.per_environment.environments as environments
}

test_no_environment if {
	found == {"x-environment-not-described"} with input as {} with data.custom.per_environment.environments as environments
}

test_descriptions_of_another_form if {
	every rules in [{}, {"labels": {}}, {"closed_tags": []}, {"labels": [], "closed_tags": []}, {"labels": {}, "closed_tags": "a"}] {
		found == {"x-environment-not-described"} with input as called("production", certified, []) with data.custom.per_environment.environments as {"production": rules}
	}
}

test_without_its_data_file if {
	found == {"x-environment-not-described"} with input as called("production", certified, []) with data.custom.per_environment as {}
}
