"""The server follows its own description of the REST routes, for all requests that schemathesis derives from it."""

import json
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance, unsupported_method

import ovms_local

pytestmark = pytest.mark.slow

# Some of schemathesis' checks contradict the real server: they expect 405 for a wrong method (it is 406), no 412 for a
# body that is not JSON, no 500 for the client's faults, and success for every well-formed request, whatever the graph's
# inputs are.
EXCLUDED = [unsupported_method, negative_data_rejection, positive_data_acceptance, not_a_server_error]


DESCRIPTION = json.loads(Path(ovms_local.__file__).with_name("openapi.json").read_bytes())
OPERATIONS = [
    (path, method) for path, item in DESCRIPTION["paths"].items() for method in item if method != "parameters"
]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_the_api_is_as_described(server, path, method):
    api = schemathesis.openapi.from_url(f"{server.rest_url}/v2/openapi.json")

    @given(api[path][method].as_strategy())
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case):
        case.call_and_validate(excluded_checks=EXCLUDED)

    check()
