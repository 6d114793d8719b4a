"""The tutorial, the README and guides: their commands print what the pages show, and figures follow from tables."""

import re
import shlex
import subprocess

import pytest

from tests.conftest import ROOT

SHOWN = re.compile(r"^((?:    [^\n]+\n)+)(?:(?!    |```)[^\n]*\n)*```\n(.*?)```$", re.MULTILINE | re.DOTALL)
"""Indented commands, and the block of their output, with words between them at most."""
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SLOW = ("--placement mro --placement euclid", "lazsim sweep", "--goal deadline")
"""What takes 15 s and more of CPU: the placements and the sweep of the tutorial, and the deadline of the advice."""
RECIPE = re.search(r"^run: .*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]


def text_of(page):
    return (ROOT / page).read_text().replace("    make run\n", RECIPE.replace("$(OUT)", "runs").replace("\t", "    "))


def runs(page):
    """Return the commands of each block, and what the last of them prints."""
    blocks = SHOWN.findall(text_of(page).replace("\\\n", ""))
    return [(commands, shown) for commands, shown in blocks if not any(slow in commands for slow in SLOW)]


@pytest.mark.parametrize(
    ("page", "number"),
    [("README.md", 1), ("docs/tutorial.md", 4), ("docs/guides/placement.md", 3), ("docs/guides/advise.md", 1)],
)
def test_commands_of_a_page_print_what_it_shows(lazsim, tmp_path, monkeypatch, page, number):
    monkeypatch.chdir(tmp_path)
    for folder in ("lazsim", "traces"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    for written in re.findall(r"^```\n(# format: lazsim-trace 1\n.*?)```$", text_of(page), re.MULTILINE | re.DOTALL):
        (tmp_path / "reliable.csv").write_text(written)
    assert len(runs(page)) == number
    for commands, shown in runs(page):
        for command in commands.replace("$(BIN)/", "").splitlines():
            program, *words = shlex.split(command)
            if program == "lazsim":
                code, out, err = lazsim(*words, *(("--jobs", 1) if words[0] == "advise" else ()))
                assert code == 0, err
            else:
                subprocess.run(command, shell=True, check=True)
        assert [line for line in shown.splitlines() if line.rstrip() not in map(str.rstrip, out.splitlines())] == []


def test_figures_in_the_text_of_the_tutorial_follow_from_its_tables():
    page = text_of("docs/tutorial.md")
    tables = [[row.split() for row in block.splitlines()] for block in FENCE.findall(page)]
    rates = [{row[0]: float(row[2]) for row in rows if len(row) == 8 and row[3].endswith("%")} for rows in tables]
    spot, reliable, even, slots = filter(None, rates)
    for system in ("lazarus", "dropless-ft", "ds-ft", "ds"):
        without, under = reliable[system], spot[system]
        assert f"| `{system}` | {without:.2f} | {under:.2f} | {100 * (1 - under / without):.0f} % |" in page
    gain, gain_reliable, gain_even, gain_slots = (
        table["lazarus"] / table["dropless-ft"] for table in (spot, reliable, even, slots)
    )
    assert f"trains {gain_reliable:.2f} times as much, and with them {gain:.2f} times" in page
    assert f"`lazarus` is {100 * gain_even - 100:.0f} % ahead, not {100 * gain - 100:.0f} %" in page
    assert f"it is {100 * gain_slots - 100:.0f} to {100 * gain_even - 100:.0f} % ahead" in page
    kept = [spot[system] / reliable[system] for system in ("lazarus", "dropless-ft")]
    assert "less than {:.2f} of a reliable one under\n`lazarus`, and less than {:.2f} under".format(*kept) in page
    placed = {row[1]: row for rows in tables for row in rows if len(row) == 8 and row[:1] == ["lazarus"]}
    assert float(placed["mro"][2]) == spot["lazarus"]
    assert f"trains **{100 * float(placed['spread'][2]) / spot['lazarus'] - 100:.0f} % more** than `mro`" in page
