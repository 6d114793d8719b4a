"""The questions of the guide: their commands run, in order, and print what the page shows."""

import re
import shlex

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs/guides/questions.md").read_text()
FILES = re.findall(r"<!-- file: (\S+) -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
RUNS = re.findall(r"<!-- run -->\n\n((?:    lazsim [^\n]*\n)+)(?:\n```\n(.*?)```)?", PAGE, re.DOTALL)
"""The commands, and a part of what the last of them prints."""


@pytest.mark.parametrize(("commands", "shown"), RUNS, ids=[commands.split()[1] for commands, _ in RUNS])
def test_the_commands_of_a_question_run_and_print_what_the_page_shows(lazsim, tmp_path, monkeypatch, commands, shown):
    for name, content in FILES:
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    for command in commands.strip().splitlines():
        words = shlex.split(command)[1:]
        code, out, err = lazsim(*words, *(("--jobs", 1) if words[0] == "advise" else ()))
        assert code == 0, err
    assert [line for line in shown.splitlines() if line.rstrip() not in map(str.rstrip, out.splitlines())] == []


def test_every_command_of_the_page_is_run():
    shown = re.findall(r"^    lazsim .*$", PAGE, re.MULTILINE)
    assert sum(len(commands.splitlines()) for commands, _ in RUNS) == len(shown)
