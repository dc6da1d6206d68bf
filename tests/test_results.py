"""The schema that ships with the package is that of the result types."""

import json

import pytest
from regenerate import RESULTS

from tapecheck import results


@pytest.mark.parametrize("validation_name", RESULTS)
def test_the_shipped_schema_is_that_of_the_code(validation_name: str) -> None:
    """A result type that changed without its schema is found: run tests/regenerate.py schemas."""
    assert results.schema(validation_name) == json.loads(json.dumps(results.json_schema(RESULTS[validation_name])))
