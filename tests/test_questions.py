"""The questions of the guide: their commands run, in order, and print what the page shows."""

import re
import shlex

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs/guides/questions.md").read_text()
FILES = re.findall(r"<!-- file: (\S+) -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
RUNS = re.findall(r"<!-- run: ?([^\n]*?) ?-->\n\n((?:    lazsim [^\n]*\n)+)(?:\n```\n(.*?)```)?", PAGE, re.DOTALL)
"""What makes commands small for a test, the commands, and a part of what the last of them prints."""


@pytest.mark.parametrize(("small", "commands", "shown"), RUNS, ids=[run[1].split()[1] for run in RUNS])
def test_the_commands_of_a_question_run_and_print_what_the_page_shows(
    lazsim, tmp_path, monkeypatch, small, commands, shown
):
    for name, content in FILES:
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    for command in commands.strip().splitlines():
        words = shlex.split(command)[1:]
        others = shlex.split(small)
        for option in set(words) & {one for one in others if one.startswith("--")}:
            del words[words.index(option) : words.index(option) + 2]
        words += others
        code, out, err = lazsim(*words, *(("--jobs", 1) if words[0] == "advise" else ()))
        assert code == 0, err
    if small:
        # Other numbers, in the same columns.
        assert not shown or shown.splitlines()[-1].split()[0] in out
    else:
        assert [line for line in shown.splitlines() if line.rstrip() not in map(str.rstrip, out.splitlines())] == []


def test_every_command_of_the_page_is_run():
    shown = re.findall(r"^    lazsim .*$", PAGE, re.MULTILINE)
    assert sum(len(run[1].splitlines()) for run in RUNS) == len(shown)
