"""The server does what its own description of the REST routes says, for whatever schemathesis makes of it."""

import pytest
import schemathesis
from hypothesis import settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance, unsupported_method

pytestmark = pytest.mark.slow

# Three of schemathesis' checks expect what the real server does not do: 405 for a wrong method (it is 406), no 412 for a
# body that is no JSON, and an answer to every request that has the right form, whatever the graph's inputs are.
EXCLUDED = [unsupported_method, negative_data_rejection, positive_data_acceptance]


@pytest.fixture
def api(server):
    return schemathesis.openapi.from_url(f"{server.rest_url}/v2/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(max_examples=30, deadline=None)
def test_the_api_is_as_described(case):
    case.call_and_validate(excluded_checks=EXCLUDED)
