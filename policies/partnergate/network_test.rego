package partnergate_test

import rego.v1

# Networks of the partner

test_source_in_no_network_of_the_partner if {
	data.partnergate.decision == denied(["network-not-allowed"]) with input as but({"source": {"networks": ["other", "any"]}})
}

test_source_in_no_network if {
	data.partnergate.decision == denied(["network-not-allowed"]) with input as but({"source": {"networks": []}})
}

test_source_without_networks if {
	data.partnergate.decision == denied(["network-not-allowed"]) with input as without(["source/networks"])
}

test_no_source if {
	data.partnergate.decision == denied(["network-not-allowed"]) with input as without(["source"])
}

test_partner_with_no_networks if {
	data.partnergate.decision == denied(["network-not-allowed"]) with input as but({"partner": {"networks": []}})
}

test_partner_without_networks if {
	data.partnergate.decision == denied(["network-not-allowed"]) with input as without(["partner/networks"])
}

test_partner_with_no_networks_and_grant_without_networks if {
	data.partnergate.decision == denied(["network-not-allowed"]) with input as object.union(granted([grant_without(["networks"])]), {"partner": {"networks": []}})
}

test_partner_without_networks_and_grant_without_networks if {
	data.partnergate.decision == denied(["network-not-allowed"]) with input as json.remove(granted([grant_without(["networks"])]), ["partner/networks"])
}

test_grant_does_not_widen_the_partner if {
	data.partnergate.decision == denied(["network-not-allowed"]) with input as object.union(granted([grant_but({"networks": ["any"]})]), {"source": {"networks": ["other", "any"]}})
}

# Networks of a grant

test_source_in_the_partner_but_not_in_the_grant if {
	data.partnergate.decision == denied(["network-not-allowed"]) with input as but({"source": {"networks": ["acme-dc2", "any"]}})
}

test_grant_with_no_networks if {
	data.partnergate.decision == denied(["network-not-allowed"]) with input as granted([grant_but({"networks": []})])
}

test_grant_without_networks_has_those_of_the_partner if {
	data.partnergate.decision == allowed("grant-1") with input as object.union(granted([grant_without(["networks"])]), {"source": {"networks": ["acme-dc2", "any"]}})
}

test_grant_without_networks_and_source_outside_the_partner if {
	data.partnergate.decision == denied(["network-not-allowed"]) with input as object.union(granted([grant_without(["networks"])]), {"source": {"networks": ["other", "any"]}})
}

test_second_network_of_the_source_counts if {
	data.partnergate.decision == allowed("grant-1") with input as but({"source": {"networks": ["other", "any", "acme-dc1"]}})
}

test_source_in_partner_and_grant_by_different_names if {
	data.partnergate.decision == allowed("grant-1") with input as but({"source": {"networks": ["acme-dc1", "acme-dc2"]}, "partner": {"networks": ["acme-dc2"]}})
}

# The network that contains every address

test_any_on_partner_and_grant if {
	data.partnergate.decision == allowed("grant-1") with input as object.union(granted([grant_but({"networks": ["any"]})]), {"partner": {"networks": ["any"]}, "source": {"networks": ["any"]}})
}

test_any_on_partner_and_inherited if {
	data.partnergate.decision == allowed("grant-1") with input as object.union(granted([grant_without(["networks"])]), {"partner": {"networks": ["any"]}, "source": {"networks": ["any"]}})
}

test_any_on_partner_and_one_network_on_the_grant if {
	data.partnergate.decision == allowed("grant-1") with input as but({"partner": {"networks": ["any"]}})
}

test_any_on_partner_does_not_widen_the_grant if {
	data.partnergate.decision == denied(["network-not-allowed"]) with input as but({"partner": {"networks": ["any"]}, "source": {"networks": ["other", "any"]}})
}

test_any_on_grant_has_the_networks_of_the_partner if {
	data.partnergate.decision == allowed("grant-1") with input as granted([grant_but({"networks": ["any"]})])
}
