#!/usr/bin/env python3
"""The description of the API that omni serve gives, and the server held to it: tests/server/openapi_check.py OMNI [SECONDS] (default 40).

The description is valid OpenAPI and names the endpoints of src/server/routes.c; then schemathesis makes requests of it, fitting and unfitting ones: no answer
is a 500, each has a status, a type and a shape that the description states. Needs schemathesis and openapi-spec-validator (scripts/clients-env.sh)."""
import os
import re
import subprocess
import sys
import tempfile

import openapi_spec_validator

import harness

# An answer of 501 is what /v1/embeddings is for. 503 never comes: there is memory, and nothing shuts down.
CONFIG = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "4xx"]

[[operations]]
include-path = "/v1/embeddings"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", "501"]
"""
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def same_endpoints(description):
    with open(os.path.join(harness.ROOT, "src/server/routes.c"), encoding="utf-8") as f:
        routes = {(m.lower(), p) for m, p in re.findall(r'^    \{"([A-Z]+)", "([^"*]+)",', f.read(), re.M)}
    described = {(m, p) for p, methods in description["paths"].items() for m in methods}
    if routes != described or len(routes) < 10:
        raise SystemExit(f"only in routes.c: {sorted(routes - described)}; only in openapi.json: {sorted(described - routes)}")


def main():
    harness.OMNI = sys.argv[1]
    seconds = sys.argv[2] if len(sys.argv) > 2 else "40"
    # A short context, for short answers: a random model ends hardly any by itself.
    server = harness.Server("--slots", "--ctx-size", 160, "--parallel", 4)
    try:
        description = server.json("GET", "/openapi.json")
        openapi_spec_validator.validate(description)
        same_endpoints(description)
        with tempfile.TemporaryDirectory() as folder:
            config = os.path.join(folder, "schemathesis.toml")
            with open(config, "w", encoding="utf-8") as f:
                f.write(CONFIG)
            at = f"http://127.0.0.1:{server.port}"
            status = subprocess.run([os.path.join(os.path.dirname(sys.executable), "schemathesis"), "--config-file", config, "run", at + "/openapi.json",
                                     "--phases", "examples,coverage,fuzzing", "--checks", CHECKS, "--max-time", seconds, "--max-examples", "200", "--seed",
                                     "1", "--workers", "1", "--request-timeout", "30", "--continue-on-failure", "--no-shrink", "--no-color", "--warnings",
                                     "off", "--generation-database", "none", "--suppress-health-check", "all"], cwd=folder).returncode
        server.json("GET", "/health")
        asked = sum(server.metric(f'omni_requests_total{{status="{k}xx"}}') for k in range(1, 6))
        print(f"{asked:.0f} requests were answered")
        if asked < 200:
            raise SystemExit("too few requests were made to tell anything")
    finally:
        code = server.stop()
    bad = [line for line in server.lines if "Sanitizer" in line or "runtime error" in line]
    if code != 0 or bad:
        raise SystemExit(f"the server ended with {code}: {bad or server.lines[-20:]}")
    return status


if __name__ == "__main__":
    sys.exit(main())
