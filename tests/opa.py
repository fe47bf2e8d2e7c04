"""Asks OPA's own engine. In on stdin: modules by path, data, a query and inputs. Out: for each input what `x` in the query is bound
to, as a list, or why the modules are refused. The one argument is the folder that the engine was unpacked to."""

import json
import sys

sys.path.insert(0, sys.argv[1])
from opa_bindings import OpaEngine  # noqa: E402
from opa_bindings.engine import OpaError  # noqa: E402

asked = json.load(sys.stdin)
try:
    with OpaEngine() as engine:
        for path, text in asked["modules"].items():
            engine.add_policy(path, text)
        engine.add_data(asked["data"])
        found = []
        for one in asked["inputs"]:
            try:
                found.append([bound["x"] for bound in engine.eval_query(asked["query"], one)])
            except OpaError as error:
                if error.code != "eval_error":
                    raise
                # Here an error of a builtin ends the evaluation.
                found.append([{"error": str(error)}])
        json.dump({"found": found}, sys.stdout)
except OpaError as error:
    json.dump({"refused": str(error)}, sys.stdout)
