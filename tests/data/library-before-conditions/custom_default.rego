# METADATA
# title: No custom denials
# description: |
#   Holds the place of a security team's own rules, which live in
#   policies/custom in this same package.
# scope: package
package partnergate.custom

import rego.v1

# With this, data.partnergate.custom.deny is a set even where there is no custom
# file, so the decision can compare it with the empty set. It also fixes the form
# of the rule: a custom file that defines deny in another way, such as
# "deny := true", does not compile, where it could otherwise conflict with itself
# at run time and be read as no denial.

# METADATA
# title: The empty set of custom denials
# description: Adds nothing. Files in policies/custom add to the same set.
deny contains {"reason": "x-never"} if false
