package partnergate_test

import rego.v1

# Credential: 200 to 800. The grant is open, so that only the credential decides.

test_credential_just_before_its_start if {
	data.partnergate.decision == denied(["credential-not-yet-valid"]) with input as granted_at([grant_without(["starts_ns", "ends_ns"])], 199)
}

test_credential_at_its_start if {
	data.partnergate.decision == allowed("grant-1") with input as granted_at([grant_without(["starts_ns", "ends_ns"])], 200)
}

test_credential_just_before_its_end if {
	data.partnergate.decision == allowed("grant-1") with input as granted_at([grant_without(["starts_ns", "ends_ns"])], 799)
}

test_credential_at_its_end if {
	data.partnergate.decision == denied(["credential-expired"]) with input as granted_at([grant_without(["starts_ns", "ends_ns"])], 800)
}

test_credential_without_start if {
	data.partnergate.decision == denied(["credential-not-yet-valid"]) with input as without(["credential/not_before_ns"])
}

test_credential_without_end if {
	data.partnergate.decision == denied(["credential-expired"]) with input as without(["credential/not_after_ns"])
}

# Engagement: 100 to 900. Grant and credential are wider, so that only it decides.

test_engagement_just_before_its_start if {
	data.partnergate.decision == denied(["engagement-not-started"]) with input as object.union(granted_at([grant_without(["starts_ns", "ends_ns"])], 99), {"credential": {"not_before_ns": 0, "not_after_ns": 1000}})
}

test_engagement_at_its_start if {
	data.partnergate.decision == allowed("grant-1") with input as object.union(granted_at([grant_without(["starts_ns", "ends_ns"])], 100), {"credential": {"not_before_ns": 0, "not_after_ns": 1000}})
}

test_engagement_just_before_its_end if {
	data.partnergate.decision == allowed("grant-1") with input as object.union(granted_at([grant_without(["starts_ns", "ends_ns"])], 899), {"credential": {"not_before_ns": 0, "not_after_ns": 1000}})
}

test_engagement_at_its_end if {
	data.partnergate.decision == denied(["engagement-ended"]) with input as object.union(granted_at([grant_without(["starts_ns", "ends_ns"])], 900), {"credential": {"not_before_ns": 0, "not_after_ns": 1000}})
}

test_engagement_without_start if {
	data.partnergate.decision == allowed("grant-1") with input as without(["partner/engagement/starts_ns"])
}

test_engagement_without_start_ends if {
	data.partnergate.decision == denied(["engagement-ended"]) with input as object.union(without(["partner/engagement/starts_ns"]), {"partner": {"engagement": {"ends_ns": 500}}})
}

test_engagement_without_end if {
	data.partnergate.decision == allowed("grant-1") with input as without(["partner/engagement/ends_ns"])
}

test_engagement_without_end_starts if {
	data.partnergate.decision == denied(["engagement-not-started"]) with input as object.union(without(["partner/engagement/ends_ns"]), {"partner": {"engagement": {"starts_ns": 501}}})
}

test_no_engagement if {
	data.partnergate.decision == allowed("grant-1") with input as without(["partner/engagement"])
}

# Grant: 300 to 700.

test_grant_just_before_its_start if {
	data.partnergate.decision == denied(["grant-not-started"]) with input as granted_at([grant], 299)
}

test_grant_at_its_start if {
	data.partnergate.decision == allowed("grant-1") with input as granted_at([grant], 300)
}

test_grant_just_before_its_end if {
	data.partnergate.decision == allowed("grant-1") with input as granted_at([grant], 699)
}

test_grant_at_its_end if {
	data.partnergate.decision == denied(["grant-expired"]) with input as granted_at([grant], 700)
}

test_grant_without_start if {
	data.partnergate.decision == allowed("grant-1") with input as granted_at([grant_without(["starts_ns"])], 299)
}

test_grant_without_start_ends if {
	data.partnergate.decision == denied(["grant-expired"]) with input as granted_at([grant_without(["starts_ns"])], 700)
}

test_grant_without_end if {
	data.partnergate.decision == allowed("grant-1") with input as granted_at([grant_without(["ends_ns"])], 700)
}

test_grant_without_end_starts if {
	data.partnergate.decision == denied(["grant-not-started"]) with input as granted_at([grant_without(["ends_ns"])], 299)
}

test_grant_that_ends_when_the_next_starts_at_that_instant if {
	data.partnergate.decision == allowed("grant-2") with input as granted([grant_but({"ends_ns": 500}), grant_but({"id": "grant-2", "starts_ns": 500})])
}

test_grant_that_ends_when_the_next_starts_just_before if {
	data.partnergate.decision == allowed("grant-1") with input as granted_at([grant_but({"ends_ns": 500}), grant_but({"id": "grant-2", "starts_ns": 500})], 499)
}

test_grant_with_an_empty_period if {
	data.partnergate.decision == denied(["grant-expired"]) with input as granted([grant_but({"starts_ns": 500, "ends_ns": 500})])
}

# Nanoseconds since the epoch do not fit a double: neighbours must stay distinct.

test_real_instant_just_before_the_end if {
	data.partnergate.decision == allowed("grant-1") with input as object.union(granted_at([grant_but({"ends_ns": 1767225600000000001})], 1767225600000000000), {"credential": {"not_after_ns": 1767225600000000001}, "partner": {"engagement": {"ends_ns": 1767225600000000001}}})
}

test_real_instant_at_the_end if {
	data.partnergate.decision == denied(["grant-expired"]) with input as object.union(granted_at([grant_but({"ends_ns": 1767225600000000001})], 1767225600000000001), {"credential": {"not_after_ns": 1767225600000000002}, "partner": {"engagement": {"ends_ns": 1767225600000000002}}})
}

# The clock

test_no_time_is_denied_although_every_period_is_open if {
	data.partnergate.decision == denied(["credential-expired", "credential-not-yet-valid"]) with input as json.remove(granted([grant_without(["starts_ns", "ends_ns"])]), ["time", "partner/engagement"])
}
