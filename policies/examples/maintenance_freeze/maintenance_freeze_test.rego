package partnergate.custom.maintenance_freeze_test

import rego.v1

# 2026-12-18T17:00:00Z to 2027-01-04T05:00:00Z.
from := 1797613200000000000

until := 1799038800000000000

payments := {"freezes": [{"from": "2026-12-18T18:00:00+01:00", "until": "2027-01-04T06:00:00+01:00", "tags": ["payments"]}], "methods": ["GET"]}

everything := {"freezes": [object.remove(payments.freezes[0], ["tags"])], "methods": []}

called(method, tags, now) := {"request": {"method": method, "tags": tags}, "time": {"now_ns": now}}

denied := {denial | some denial in data.partnergate.custom.deny; denial.reason == "x-maintenance-freeze"}

frozen := {{"reason": "x-maintenance-freeze"}}

test_just_before_the_freeze if {
	denied == set() with input as called("POST", ["payments"], from - 1) with data.custom.maintenance_freeze as payments
}

test_at_its_beginning if {
	denied == frozen with input as called("POST", ["payments"], from) with data.custom.maintenance_freeze as payments
}

test_just_before_its_end if {
	denied == frozen with input as called("POST", ["payments"], until - 1) with data.custom.maintenance_freeze as payments
}

test_at_its_end if {
	denied == set() with input as called("POST", ["payments"], until) with data.custom.maintenance_freeze as payments
}

test_read_during_the_freeze if {
	denied == set() with input as called("GET", ["payments"], from) with data.custom.maintenance_freeze as payments
}

test_operation_that_is_not_concerned if {
	denied == set() with input as called("POST", ["orders"], from) with data.custom.maintenance_freeze as payments
}

test_operation_without_tags if {
	denied == set() with input as json.remove(called("POST", [], from), ["request/tags"]) with data.custom.maintenance_freeze as payments
}

test_freeze_of_everything if {
	denied == frozen with input as called("GET", ["orders"], from) with data.custom.maintenance_freeze as everything
}

test_freeze_of_everything_concerns_operations_without_tags if {
	denied == frozen with input as json.remove(called("GET", [], from), ["request/tags"]) with data.custom.maintenance_freeze as everything
}

test_second_of_two_freezes if {
	denied == frozen with input as called("POST", ["payments"], from) with data.custom.maintenance_freeze as {"freezes": [{"from": "2025-01-01T00:00:00Z", "until": "2025-02-01T00:00:00Z"}, payments.freezes[0]], "methods": []}
}

test_no_freezes if {
	denied == set() with input as called("POST", ["payments"], from) with data.custom.maintenance_freeze as {"freezes": [], "methods": []}
}

test_times_that_cannot_be_read if {
	every freeze in [{}, {"from": "yesterday", "until": "tomorrow"}, {"from": 1, "until": 2}, {"from": "2026-12-18", "until": "2026-12-19"}] {
		denied == frozen with input as called("POST", ["payments"], from) with data.custom.maintenance_freeze as {"freezes": [freeze], "methods": ["GET"]}
	}
}

test_end_that_cannot_be_read_does_not_begin_a_freeze if {
	denied == set() with input as called("POST", ["payments"], from - 1) with data.custom.maintenance_freeze as {"freezes": [{"from": "2026-12-18T18:00:00+01:00", "until": "?"}], "methods": []}
}

test_freezes_of_another_form if {
	every freezes in ["always", {"from": "2026-12-18T18:00:00Z"}, null, 7] {
		denied == frozen with input as called("GET", ["payments"], from - 1) with data.custom.maintenance_freeze as {"freezes": freezes, "methods": ["GET"]}
	}
}

test_tags_of_another_form_concern_everything if {
	denied == frozen with input as called("POST", ["orders"], from) with data.custom.maintenance_freeze as {"freezes": [object.union(payments.freezes[0], {"tags": "payments"})], "methods": ["GET"]}
}

test_without_a_time if {
	denied == frozen with input as json.remove(called("POST", ["payments"], from), ["time"]) with data.custom.maintenance_freeze as payments
}

test_without_a_method if {
	denied == frozen with input as json.remove(called("GET", ["payments"], from), ["request/method"]) with data.custom.maintenance_freeze as payments
}

test_without_its_data_file if {
	denied == frozen with input as called("GET", [], from) with data.custom.maintenance_freeze as {}
}
