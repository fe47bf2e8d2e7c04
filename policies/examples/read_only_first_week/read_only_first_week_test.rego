package partnergate.custom.read_only_first_week_test

import rego.v1

day := ((24 * 3600) * 1000) * 1000000

settings := {"days": 7, "methods": ["GET", "HEAD"], "tags": ["read-only"]}

# A request on the 30th day, of an engagement and a grant that began on these days.
called(method, tags, engaged, granted) := {
	"partner": {
		"engagement": {"starts_ns": engaged * day},
		"networks": ["any"],
		"grants": [{"id": "g", "operations": ["orders.create"], "starts_ns": granted * day, "conditions": {}}],
	},
	"credential": {"id": "c"},
	"source": {"networks": ["any"]},
	"request": {"method": method, "operation": "orders.create", "tags": tags},
	"time": {"now_ns": 30 * day},
}

# A write in the first week of its grant, by a partner that has an old one for this
# operation.
with_another(operation) := object.union(called("POST", [], 1, 24), {"partner": {"grants": array.concat(
	called("POST", [], 1, 24).partner.grants,
	[{"id": "old", "operations": [operation], "starts_ns": day, "conditions": {}}],
)}})

denied := {denial | some denial in data.partnergate.custom.deny; denial.reason == "x-read-only-first-week"}

early := {{"reason": "x-read-only-first-week"}}

test_write_after_the_first_week if {
	denied == set() with input as called("POST", [], 1, 2) with data.custom.read_only_first_week as settings
}

test_write_in_the_first_week_of_the_engagement if {
	denied == early with input as called("POST", [], 24, 2) with data.custom.read_only_first_week as settings
}

test_write_in_the_first_week_of_the_grant if {
	denied == early with input as called("POST", [], 1, 24) with data.custom.read_only_first_week as settings
}

test_write_at_the_end_of_the_first_week if {
	denied == set() with input as called("POST", [], 23, 23) with data.custom.read_only_first_week as settings
}

test_write_just_before_the_end_of_the_first_week if {
	denied == early with input as object.union(called("POST", [], 23, 23), {"time": {"now_ns": (30 * day) - 1}}) with data.custom.read_only_first_week as settings
}

test_read_in_the_first_week if {
	denied == set() with input as called("GET", [], 29, 29) with data.custom.read_only_first_week as settings
}

test_read_by_its_tag_in_the_first_week if {
	denied == set() with input as called("POST", ["search", "read-only"], 29, 29) with data.custom.read_only_first_week as settings
}

test_old_grant_for_another_operation_does_not_count if {
	denied == early with input as with_another("orders.read") with data.custom.read_only_first_week as settings
}

test_old_grant_for_the_same_operation_counts if {
	denied == set() with input as with_another("orders.create") with data.custom.read_only_first_week as settings
}

test_grant_without_a_start if {
	denied == early with input as json.remove(called("POST", [], 1, 2), ["partner/grants/0/starts_ns"]) with data.custom.read_only_first_week as settings
}

test_engagement_without_a_start if {
	denied == early with input as json.remove(called("POST", [], 1, 2), ["partner/engagement/starts_ns"]) with data.custom.read_only_first_week as settings
}

test_without_a_method if {
	denied == early with input as json.remove(called("GET", [], 29, 29), ["request/method"]) with data.custom.read_only_first_week as settings
}

test_without_a_time if {
	denied == early with input as json.remove(called("POST", [], 1, 2), ["time"]) with data.custom.read_only_first_week as settings
}

test_without_its_data_file if {
	denied == early with input as called("GET", [], 1, 2) with data.custom.read_only_first_week as {}
}
