package partnergate_test

import rego.v1

sized(length, most) := object.union(conditioned({"max_content_length": most}), {"request": {"content_length": length}})

# Methods

test_method_that_is_listed if {
	data.partnergate.decision == allowed("grant-1") with input as conditioned({"methods": ["HEAD", "GET"]})
}

test_method_that_is_not_listed if {
	data.partnergate.decision == denied(["method-not-granted"]) with input as conditioned({"methods": ["POST"]})
}

test_head_is_not_part_of_get if {
	data.partnergate.decision == denied(["method-not-granted"]) with input as object.union(conditioned({"methods": ["GET"]}), {"request": {"method": "HEAD"}})
}

test_method_is_compared_exactly if {
	data.partnergate.decision == denied(["method-not-granted"]) with input as conditioned({"methods": ["get"]})
}

test_methods_of_another_form if {
	every methods in [[], "GET", {"a": "GET"}, true, null, 7] {
		data.partnergate.decision == denied(["method-not-granted"]) with input as conditioned({"methods": methods})
	}
}

test_methods_without_a_method if {
	data.partnergate.decision == denied(["method-not-granted"]) with input as json.remove(conditioned({"methods": ["GET"]}), ["request/method"])
}

# Sizes

test_body_as_large_as_it_may_be if {
	data.partnergate.decision == allowed("grant-1") with input as sized(1048576, 1048576)
}

test_body_one_byte_too_large if {
	data.partnergate.decision == denied(["content-too-large"]) with input as sized(1048577, 1048576)
}

test_no_body if {
	data.partnergate.decision == allowed("grant-1") with input as sized(0, 0)
}

test_any_body_where_none_may_be if {
	data.partnergate.decision == denied(["content-too-large"]) with input as sized(1, 0)
}

test_body_of_unknown_length if {
	data.partnergate.decision == denied(["content-length-missing"]) with input as json.remove(sized(0, 1048576), ["request/content_length"])
}

test_body_of_unknown_length_without_a_limit if {
	data.partnergate.decision == allowed("grant-1") with input as without(["request/content_length"])
}

test_limits_of_another_form if {
	every most in ["1048576", "", [1048576], {}, true, null, -1] {
		data.partnergate.decision == denied(["content-too-large"]) with input as sized(0, most)
	}
}
