# Fixtures of the tests of package partnergate. Files that end in _test.rego are
# read when policy is tested and never when it is served.
package partnergate_test

import rego.v1

# One request that is allowed, with every fact the policy looks at. Each test
# changes one thing about it. The periods enclose one another in the order
# engagement 100 to 900, credential 200 to 800, grant 300 to 700.
request := {
	"version": 1,
	"environment": "production",
	"partner": {
		"id": "acme",
		"name": "Acme Ltd",
		"state": "active",
		"owner": "payments",
		"engagement": {"starts_ns": 100, "ends_ns": 900},
		"networks": ["acme-dc1", "acme-dc2"],
		"grants": [grant],
	},
	"credential": {
		"id": "cred-1",
		"kind": "x509",
		"state": "active",
		"not_before_ns": 200,
		"not_after_ns": 800,
	},
	"source": {"ip": "192.0.2.7", "port": 40000, "networks": ["acme-dc1", "any"]},
	"tls": {"version": "1.3", "cipher": "TLS_AES_128_GCM_SHA256"},
	"request": {"id": "r-1", "method": "GET", "operation": "invoices.read", "content_length": 0},
	"time": {"now_ns": 500, "weekday": "monday", "hour": 9, "minute": 30, "local": {"weekday": "monday", "hour": 10, "minute": 30}},
}

grant := {
	"id": "grant-1",
	"owner": "payments",
	"operations": ["invoices.list", "invoices.read"],
	"networks": ["acme-dc1"],
	"credentials": ["cred-1", "cred-2"],
	"starts_ns": 300,
	"ends_ns": 700,
	"conditions": {},
}

# The request with the facts in changes put over it; lists are replaced.
but(changes) := object.union(request, changes)

# The request without the facts at these paths.
without(paths) := json.remove(request, paths)

# The request of a partner with exactly these grants.
granted(grants) := object.union(request, {"partner": {"grants": grants}})

# The request at another instant, of a partner with exactly these grants.
granted_at(grants, now) := object.union(granted(grants), {"time": {"now_ns": now}})

# The grant with these fields put over it.
grant_but(changes) := object.union(grant, changes)

# The request under the grant with these conditions.
conditioned(conditions) := granted([grant_but({"conditions": conditions})])

# The grant without these fields.
grant_without(fields) := object.remove(grant, fields)

allowed(id) := {"allow": true, "reasons": [], "grant": id}

denied(reasons) := {"allow": false, "reasons": reasons}
