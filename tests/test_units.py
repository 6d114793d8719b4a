import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.errors import LazsimError
from lazsim.units import DURATIONS_S, format_duration, parse_duration, parse_price, read_number


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("80min", 4800),
        ("2h", 7200),
        ("1.5 d", 129600),
        ("250ms", 0.25),
        ("0", 0),
        ("1h30min", 5400),
        ("1h 30m", 5400),
        ("1h\u00a030min", 5400),
        ("1 day, 2 hours", 93600),
        ("0.1s 200us", 0.1002),
    ],
)
def test_durations_with_units_become_seconds(text, seconds):
    assert parse_duration(text) == seconds


@given(st.text(max_size=8))
def test_what_is_not_a_duration_is_refused_in_one_line(text):
    number = r"(\d+\.?\d*|\.\d+)"
    known = re.fullmatch(
        rf"\s*(0|{number}([eE][+-]?\d+)?\s*(ms|s|min|h|d)|({number}\s*(ms|s|m|h|d)[,\s]*)+)\s*", text, re.ASCII
    )
    if known:
        assert parse_duration(text) >= 0
    else:
        with pytest.raises(LazsimError, match=r"^[^\n]*is not a duration[^\n]*$"):
            parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"), (0.9996, "1 s"), (599.9, "10 min"), (3 * 3600 - 1, "3 h"), (3 * 86400 - 1, "3 d"),
        (1000 * 86400, "1,000 d"), (3652.5 * 86400, "3,650 d"), (1e-9, "0.000001 ms"), (-5, "-5 s"),
    ],
)  # fmt: skip
def test_a_duration_is_written_in_the_unit_that_its_rounded_number_has(seconds, text):
    assert format_duration(seconds) == text


@given(st.floats(0, 1e12))
def test_a_duration_is_written_without_exponent_and_within_half_of_its_third_digit(seconds):
    number, unit = format_duration(seconds).split()
    assert re.fullmatch(r"[\d,]+(\.\d+)?", number)
    assert float(number.replace(",", "")) * DURATIONS_S[unit] == pytest.approx(seconds, rel=0.00501)


@pytest.mark.parametrize("text", ["\uff11\uff12", "1_0", "٤", "", "0x10"])
def test_what_only_python_takes_for_a_number_is_none_in_a_table(text):
    with pytest.raises(ValueError, match=re.escape(f"{text!r} is no number")):
        read_number(text)


@pytest.mark.parametrize(("text", "number"), [("1_000", "1000"), ("1_000_000.5", "1000000.5"), ("1 000", "1000")])
def test_separators_of_thousands_are_refused_with_the_number_to_write(text, number):
    with pytest.raises(ValueError, match=f"has a separator of thousands; write {number}$"):
        read_number(text)


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


@pytest.mark.parametrize(("text", "told"), [("1e-308h", "less than a nanosecond"), ("1e6d", "more than a century")])
def test_a_duration_that_no_unit_makes_sense_of_is_refused(text, told):
    with pytest.raises(LazsimError, match=told):
        parse_duration(text)
