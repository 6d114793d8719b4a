"""The table renderer: nothing is lost at any width."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from lazsim.output.names import shown_names
from lazsim.output.table import INDENT, MIN_WIDTH, Column, Table, key, number_text, render, wrap
from lazsim.units import share_text

WORDS = st.text("abcdefghij", min_size=1, max_size=10)
NAMES = st.text("abcdef-_+", min_size=1, max_size=40)
NUMBERS = st.integers(0, 10**12).map(lambda number: f"{number:,}")
WIDTHS = st.integers(MIN_WIDTH, 140)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Draw tables with one to three key columns, names, numbers and texts."""
    num_rows = draw(st.integers(1, 6))
    columns, cells = [], []
    for kind in [*draw(st.lists(st.just("key"), min_size=1, max_size=3)), *draw(st.lists(
        st.sampled_from(("number", "name", "text")), min_size=1, max_size=8
    ))]:  # fmt: skip
        heading = " ".join(draw(st.lists(WORDS, max_size=4)))
        columns.append(key(heading) if kind == "key" else Column(heading, kind=kind, has_name=draw(st.booleans())))
        cell = {"number": NUMBERS, "text": st.lists(WORDS, max_size=12).map(" ".join)}.get(kind, NAMES)
        cells.append(draw(st.lists(cell, min_size=num_rows, max_size=num_rows)))
    return Table(columns, list(zip(*cells, strict=True)), draw(WORDS), draw(st.lists(WORDS, max_size=2)))


def test_only_lines_of_a_paragraph_begin_a_line_and_no_name_steers_the_terminal():
    assert render(["mine\x1b[2J\nmodel a"]) == r"mine\x1b[2J\nmodel a"
    assert render([["mine\nmodel a", "b"]]).split("\n") == [r"mine\nmodel a", "b"]


@given(tables(), WIDTHS)
def test_no_line_is_wider_than_the_terminal(table: Table, width: int) -> None:
    assert max(map(cell_len, render([table], width).splitlines())) <= width


@given(tables(), WIDTHS)
def test_every_number_and_every_word_appears_at_every_width(table: Table, width: int) -> None:
    shown = Counter(re.findall(r"\S+", render([table], width)))
    wanted: Counter[str] = Counter()
    for column, cells in zip(table.columns, zip(*table.rows, strict=True), strict=True):
        if column.kind != "name":
            wanted.update(word for cell in cells for word in cell.split())
        if not column.has_name:
            words = column.heading.split()
            assert all(word in shown or f"{word}:" in shown for word in words)
    assert wanted <= shown


@given(tables(), WIDTHS)
def test_no_width_loses_a_letter(table: Table, width: int) -> None:
    wanted = Counter("".join([table.title, *table.notes, *(one.heading for one in table.columns)]))
    wanted.update("".join(cell for row in table.rows for cell in row))
    del wanted[" "]
    assert wanted <= Counter(render([table], width))


@given(st.lists(NAMES, min_size=1, max_size=9), st.lists(st.sampled_from("0579"), min_size=9, max_size=9), WIDTHS)
def test_long_names_wrap_so_that_their_lines_make_them_again(names: list[str], numbers: list[str], width: int) -> None:
    rows = list(zip(names, numbers, strict=False))
    _, *lines = render([Table([key("constant"), Column("x")], rows)], width).splitlines()
    found: list[list[str]] = []
    for line in lines:
        name, _, number = line.rpartition(" ") if not line.startswith(INDENT) else (line, "", "")
        found += [[name.rstrip(), number]] if number else []
        found[-1][0] += "" if number else line.strip()
    assert found == [list(row) for row in rows]


@given(st.lists(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=6), st.integers(40, 140))
def test_only_the_first_line_of_a_row_begins_at_the_edge(choices: list[str], width: int) -> None:
    table = Table([key("choice", kind="text"), Column("samples")], [[choice, "7"] for choice in choices])
    lines = render([table], width).splitlines()
    assert sum(not line.startswith(" ") for line in lines) == 1 + len(choices)


@given(st.lists(st.text(min_size=1, max_size=40), max_size=30), st.integers(8, 40))
def test_shortened_names_fit_and_stay_distinct(names: list[str], width: int) -> None:
    short = shown_names(names, width)
    assert all(cell_len(shown) <= width for shown in short.values())
    assert len(set(short.values())) == len(set(names)) == len(short)


@given(st.lists(NAMES, max_size=20), st.integers(40, 60))
def test_names_that_fit_stay_whole(names: list[str], width: int) -> None:
    assert shown_names(names, width) == {name: name for name in names}


@given(
    st.lists(st.tuples(st.from_regex(r"[a-z]{1,6}", fullmatch=True), st.integers(0, 10**6)), min_size=1, max_size=9),
    WIDTHS,
)
def test_columns_align(rows: list[tuple[str, int]], width: int) -> None:
    head, *lines = render([Table([key("name"), Column("count")], rows)], width).splitlines()
    assert {len(line) for line in lines} == {len(head)}, "numbers end below the end of their heading"
    assert head.startswith("name")
    assert not any(line.startswith(" ") for line in lines)


def test_keys_are_repeated_where_a_table_is_cut() -> None:
    table = Table([key("system"), *(Column(f"quantity {index}") for index in range(6))], [["ds", *range(6)]])
    lines = render([table], 30).splitlines()
    blocks = sum(line.startswith("ds ") for line in lines)
    assert blocks > 1
    assert sum(line.startswith("system ") for line in lines) == blocks


def test_a_row_becomes_a_list_where_no_column_fits_beside_its_keys() -> None:
    keys = [key(name, kind="number") for name in ("failures", "threshold", "layer")]
    assert render([Table([*keys, Column("probability")], [[1, 2, 3, "0.5"]])], 30).splitlines() == [
        "failures 1, threshold 2, layer",
        "  3",
        "  probability: 0.5",
    ]


def test_a_number_is_whole_where_rows_are_lists_on_the_narrowest_terminal() -> None:
    table = Table([key(""), key(""), Column("probability")], [["a", "b", "1,000,000,000,000"]])
    assert "1,000,000,000,000" in render([table], MIN_WIDTH).split()


@given(st.dictionaries(st.from_regex(r"[a-z]{1,9}", fullmatch=True), WORDS, min_size=1), WIDTHS)
def test_a_table_without_headings_has_no_head(entries: dict[str, str], width: int) -> None:
    lines = render([Table([key(""), Column("", kind="text")], list(entries.items()))], width).splitlines()
    assert " ".join(lines).split() == [word for entry in entries.items() for word in entry]


def test_a_table_without_rows_is_left_out() -> None:
    assert render(["before", Table([Column("samples")], [], title="what 80 min gave"), "after"]) == "before\n\nafter"


def test_numbers_that_are_missing_show_a_dash() -> None:
    table = Table(
        [Column("a", ".1f"), Column("b", ".1f"), Column("c", lambda value: f"<{value}>")], [[None, float("nan"), 3]]
    )
    assert render([table], 80).split() == ["a", "b", "c", "-", "-", "<3>"]


def test_what_is_piped_has_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert max(map(len, render(["word " * 100]).splitlines())) in range(70, 81)


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in render([Table([key("name")], [["red\x1b[31m\tname"]])], 80)


@given(st.lists(WORDS, min_size=1, max_size=30), st.integers(12, 80))
def test_wrapping_keeps_the_words(words: list[str], width: int) -> None:
    lines = wrap(" ".join(words), width, "  ")
    assert " ".join(lines).split() == words
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("share", "form", "text"),
    [
        (0.0004, ".1%", "<0.1%"),
        (0.0006, ".1%", "0.1%"),
        (0.9996, ".1%", ">99.9%"),
        (0.9994, ".1%", "99.9%"),
        (1.0004, ".1%", ">100.0%"),
        (0.004, ".0%", "<1%"),
        (0.996, ".0%", ">99%"),
        (1.0, ".0%", "100%"),
        # Ten parts of 0.1 add up to 0.9999999999999999, and 1.0000000000000002 the next number above one.
        (0.9999999999999999, ".1%", "100.0%"),
        (1.0000000000000002, ".1%", "100.0%"),
        (0.0, ".2%", "0.00%"),
        (0.99996, ".2%", ">99.99%"),
        (0.99951, ".3f", ">0.999"),
    ],
)
def test_a_share_near_none_or_all_never_looks_as_if_it_were(share, form, text):
    """Halves of the last digit decide: 99.95 % is the least that one digit would write as 100.0 %."""
    assert share_text(share, form) == text
    if form.endswith("%"):
        assert number_text(share, form) == text
