import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.errors import LazsimError
from lazsim.units import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("80min", 4800), ("2h", 7200), ("1.5 d", 129600), ("250ms", 0.25), ("0", 0)]
)
def test_durations_with_units_become_seconds(text, seconds):
    assert parse_duration(text) == seconds


@given(st.text(max_size=8))
def test_what_is_not_a_duration_is_refused_in_one_line(text):
    known = re.fullmatch(r"\s*(0|(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*(ms|s|min|h|d))\s*", text, re.ASCII)
    if known:
        assert parse_duration(text) >= 0
    else:
        with pytest.raises(LazsimError, match=r"^[^\n]*is not a duration[^\n]*$"):
            parse_duration(text)


@pytest.mark.parametrize("text", ["80", "min", "-5min", "1e999h", "5 parsecs", "nan s"])
def test_a_duration_needs_a_number_and_a_known_unit(text):
    with pytest.raises(LazsimError, match="is not a duration: give a number with a unit"):
        parse_duration(text)
