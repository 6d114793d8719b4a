import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.errors import LazsimError
from lazsim.units import parse_duration, parse_price


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


@pytest.mark.parametrize(
    ("text", "usd_per_node_hour"),
    [
        ("24.48", 24.48), ("$98", 98.0), ("4 USD", 4.0), ("US$4", 4.0), ("4/node", 4.0), ("4/node-hour", 4.0),
        ("4 per node per hour", 4.0), ("3/gpu", 24.0), ("4 per GPU-hour", 32.0), ("$4/h/GPU", 32.0),
    ],
)  # fmt: skip
def test_price_of_a_node_of_eight_gpus_is_read_in_the_forms_that_people_write(text, usd_per_node_hour):
    assert parse_price(text, gpus_per_node=8) == usd_per_node_hour


NO_PRICES = ["", "free", "-4", "4,5", "1,000", "nan", "٤", "€4", "4 EUR", "$98/h", "4/day", "4/gpu/node", "4 gpu"]


@pytest.mark.parametrize("text", NO_PRICES)
def test_price_in_another_currency_or_of_anything_else_is_refused(text):
    with pytest.raises(LazsimError, match="give US dollars for an hour of a node"):
        parse_price(text, gpus_per_node=8)
