package partnergate.custom.psd2_roles_test

import rego.v1

roles := {"psd2-payment-initiation": "PSP_PI", "psd2-account-information": "PSP_AI"}

calls(tags, labels) := {
	"credential": {"labels": labels, "subject": "CN=tpp.example,organizationIdentifier=PSDDE-BAFIN-123456,O=Example\\, Ltd,C=DE"},
	"request": {"tags": tags},
}

subject(name) := object.union(calls(["psd2-account-information"], labels), {"credential": {"subject": name}})

labels := {"psd2_id": "PSDDE-BAFIN-123456", "psd2_roles": "PSP_AI PSP_IC"}

missing := {"reason": "x-psd2-role-missing"}

mismatch := {"reason": "x-psd2-identity-mismatch"}

found := {denial | some denial in data.partnergate.custom.deny; startswith(denial.reason, "x-psd2-")}

test_role_that_the_credential_has if {
	found == set() with input as calls(["psd2-account-information", "accounts"], labels) with data.custom.psd2_roles.roles as roles
}

test_role_that_the_credential_does_not_have if {
	found == {missing} with input as calls(["psd2-payment-initiation"], labels) with data.custom.psd2_roles.roles as roles
}

test_operation_that_asks_for_two_roles if {
	found == {missing} with input as calls(["psd2-payment-initiation", "psd2-account-information"], labels) with data.custom.psd2_roles.roles as roles
}

test_operation_that_asks_for_none if {
	found == set() with input as calls(["accounts"], {}) with data.custom.psd2_roles.roles as roles
}

test_operation_without_tags if {
	found == set() with input as {"request": {}} with data.custom.psd2_roles.roles as roles
}

test_roles_are_compared_whole if {
	found == {missing} with input as calls(["psd2-account-information"], object.union(labels, {"psd2_roles": "PSP_AIX"})) with data.custom.psd2_roles.roles as roles
}

test_credential_without_roles if {
	found == {missing} with input as calls(["psd2-account-information"], {"psd2_id": "PSDDE-BAFIN-123456"}) with data.custom.psd2_roles.roles as roles
}

test_certificate_of_another_provider if {
	found == {mismatch} with input as subject("CN=tpp.example,organizationIdentifier=PSDFR-ACPR-1,C=FR") with data.custom.psd2_roles.roles as roles
}

test_identifier_is_compared_whole if {
	found == {mismatch} with input as subject("organizationIdentifier=PSDDE-BAFIN-1234567,C=DE") with data.custom.psd2_roles.roles as roles
}

test_identifier_inside_another_value if {
	found == {mismatch} with input as subject("O=A\\,organizationIdentifier=PSDDE-BAFIN-123456,C=DE") with data.custom.psd2_roles.roles as roles
}

test_identifier_in_the_first_place if {
	found == set() with input as subject("organizationIdentifier=PSDDE-BAFIN-123456") with data.custom.psd2_roles.roles as roles
}

test_certificate_without_identifier if {
	found == {mismatch} with input as subject("CN=tpp.example") with data.custom.psd2_roles.roles as roles
}

test_credential_without_identifier if {
	found == {mismatch} with input as calls(["psd2-account-information"], {"psd2_roles": "PSP_AI"}) with data.custom.psd2_roles.roles as roles
}

test_empty_identifier_is_none if {
	found == {mismatch} with input as object.union(subject("organizationIdentifier="), {"credential": {"labels": {"psd2_id": ""}}}) with data.custom.psd2_roles.roles as roles
}

test_no_credential if {
	found == {missing, mismatch} with input as {"request": {"tags": ["psd2-account-information"]}} with data.custom.psd2_roles.roles as roles
}
