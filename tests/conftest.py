"""pytest rewrites the asserts of test modules; here it is asked to do the same for the checks that they share."""

import pytest

pytest.register_assert_rewrite("checks", "hostile")
