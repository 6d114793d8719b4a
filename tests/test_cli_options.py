"""No option of any command is ignored without a word."""

import contextlib
import re

import click
import pytest

from lazsim.cli.base.effects import EXCLUSIONS, NEEDS
from lazsim.cli.base.group import GROUPS, cli
from lazsim.cli.base.messages import Checked

REQUIRED = {
    "run": ("--trace", "x"), "compare": ("--trace", "x", "--observed", "x"), "sensitivity": ("--trace", "x"),
    "trace info": ("x",), "trace fit": ("x",), "trace convert": ("x", "--out", "-"),
    "trace plot": ("x", "--out", "x.png"), "sweep": ("x.toml", "--out", "x"),
    "step": ("--model", "x", "--cluster", "x"),
}  # fmt: skip
"""What commands cannot do without."""

VALUES = {"cap": "clip", "where": "a=b", "time_unit": "h", "start": "1h", "duration": "1h", "goal": "deadline=80h",
          "backend": "ray", "lose": "1", "repair_s": "1h", "mtbf_s": "50d", "listen": "localhost:1",
          "spare_start": "1min", "shape": "0.7", "in_time_prob": "0.8", "address": "x:1"}  # fmt: skip
"""Values of options that not any number will do for."""


def commands(group=cli, path=()):
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands())


def options(command):
    return {option.name: option for option in command.params if isinstance(option, click.Option)}


def give(command, *fields):
    found = []
    for field in fields:
        option = options(command)[field]
        found.append(max(option.opts, key=len))
        found += [] if option.is_flag else [VALUES.get(field, "0.5" if "share" in field else "1")]
    return found


def parse(name, arguments):
    """Return what a command says to arguments; empty where it takes them."""
    with contextlib.ExitStack() as held:
        try:
            COMMANDS[name].make_context(name.split()[-1], [*REQUIRED.get(name, ()), *arguments], obj=held)
        except click.UsageError as error:
            return error.format_message()
    return ""


PAIRS = [
    (name, field, need)
    for need in NEEDS
    for name, command in COMMANDS.items()
    for field in need.options
    if {field, need.needed, *filter(None, [need.beside])} <= options(command).keys()
    and need.command in ("", name.split()[-1])
    and not options(command)[need.needed].required
    # The model of these has a default.
    and (field, options(command)[need.needed].default) != ("gpu", "gpt-s")
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "field", "need"), PAIRS, ids=lambda one: one if isinstance(one, str) else "")
def test_an_option_that_needs_another_is_refused_without_it_and_taken_with_it(name, field, need):
    command = COMMANDS[name]
    beside = [need.beside] if need.beside else []
    option, needed = give(command, field)[0], give(command, need.needed)[0]
    assert parse(name, give(command, field, *beside)).startswith(f"{option} has no effect without {needed}")
    assert "no effect" not in parse(name, give(command, field, need.needed, *beside))
    assert "no effect" not in parse(name, give(command, need.needed))


def test_every_pair_is_of_options_that_some_command_has():
    assert {need for _, _, need in PAIRS} == set(NEEDS)
    for need in NEEDS:
        assert {field for _, field, other in PAIRS if other == need} == set(need.options)
    for pair in EXCLUSIONS:
        assert any(set(pair) <= options(command).keys() for command in COMMANDS.values())


@pytest.mark.parametrize(("field", "other"), EXCLUSIONS)
def test_options_of_which_one_has_no_effect_beside_the_other_are_refused_together(field, other):
    (name,) = [name for name, command in COMMANDS.items() if {field, other} <= options(command).keys()]
    command = COMMANDS[name]
    # An option that goes before this check may be asked for.
    extra = {"refit": ["kernels"]}.get(other, [])
    given = dict.fromkeys([field, other, *extra])
    first, second = give(command, field)[0], give(command, other)[0]
    assert parse(name, give(command, *given)) == f"{first} has no effect beside {second}: leave one of them out"


REPEATED = [
    (name, field)
    for name, command in COMMANDS.items()
    for field, option in options(command).items()
    if not option.multiple and not option.is_flag
]


@pytest.mark.parametrize("name", dict(REPEATED))
def test_an_option_of_one_value_that_is_given_twice_is_refused(name):
    for field in (field for command, field in REPEATED if command == name):
        option = give(COMMANDS[name], field)[0]
        said = parse(name, give(COMMANDS[name], field) * 2)
        assert said == f"{option} takes one value: give it once"


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name, command in COMMANDS.items() for field, one in options(command).items() if one.multiple],
)
def test_a_value_of_an_option_that_repeats_is_refused_where_it_is_given_twice(name, field):
    option, value = give(COMMANDS[name], field)
    assert parse(name, [option, value] * 2) == f"{option} {value} is given twice: give it once"
    assert parse(name, [option, ""]) == f"{option} '': give a value, or leave it out"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("sensitivity", "--trace", "spot-p3-like", "--factor", "1", "--factor", "1.0"), "--factor 1.0"),
        (("routing", "plot", "x", "--out", "x.png", "--layer", "1", "--layer", "01"), "--layer 01"),
        (("advise", "--trace", "x", "--nodes", "4-6,5"), "--nodes 4-6,5: 5"),
        (("advise", "--trace", "x", "--fault-threshold", "2,2"), "--fault-threshold 2,2: 2"),
        (("place", "--lose", "0-2,1"), "--lose 0-2,1: 1"),
        (
            ("recovery", "--nodes", "4", "--slots", "4", "--experts", "4", "--failures", "4,1-2,2"),
            "--failures 4,1-2,2: 2",
        ),
    ],
)
def test_a_number_that_is_given_twice_is_refused_however_it_is_written(refused, arguments, told):
    assert refused(*arguments) == f"{told} is given twice: give it once"


@pytest.mark.parametrize(
    "arguments",
    [("trace", "convert", "in.csv", "--out"), ("model", "import", "in.csv", "--out"),
     ("live", "--text", "in.csv", "--record-routing")],
)  # fmt: skip
@pytest.mark.parametrize("out", ["in.csv", "link.csv", "../{folder}/in.csv"])
def test_no_command_writes_over_the_file_that_it_reads(refused, tmp_path, monkeypatch, arguments, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("kept")
    (tmp_path / "link.csv").symlink_to("in.csv")
    out = out.format(folder=tmp_path.name)
    assert refused(*arguments, out) == f"{arguments[-1]} {out}: is the file that is read; give another name"
    assert (tmp_path / "in.csv").read_text() == "kept"


def test_no_file_is_written_where_a_folder_is_named(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = refused("trace", "generate", "spot-p3-like", "--out", "results/")
    assert told == "--out: results/ is a folder; give the name of a file"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", ["trace info", "trace fit", "recovery --nodes 4 --slots 2 --experts 4 --failures-from"]
)
def test_the_recipe_that_is_nearest_to_a_name_is_suggested_wherever_a_trace_is_read(refused, command):
    assert "unknown trace 'spot-p3-lik': did you mean 'spot-p3-like'?" in refused(*command.split(), "spot-p3-lik")


def test_every_command_checks_its_options():
    assert all(isinstance(command, Checked) for command in COMMANDS.values())


def test_a_flag_and_other_values_of_an_option_that_repeats_may_be_given_again():
    assert parse("run", ["--json", "--json", "--system", "ds", "--system", "ds-ft"]) == ""


def test_an_option_of_a_group_is_refused_before_a_command_of_it(refused):
    told = refused("profile", "--device", "cpu", "show", "h200")
    assert told == "--device has no effect on lazsim profile show: give it after show, or leave it out"


@pytest.mark.parametrize("command", ["show", "check"])
def test_a_model_is_refused_with_a_profile_that_is_a_file(refused, command):
    told = refused("profile", command, "mine.csv", "--model", "gpt-l")
    assert told.startswith("--model has no effect on a file such as mine.csv")


def test_the_help_lists_every_command_once_by_what_a_person_wants(lazsim):
    _, out, _ = lazsim("--help")
    titles = [line.removesuffix(":") for line in out.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == ["Options", *GROUPS]
    listed = re.findall(r"^  (\w+)  ", out, re.MULTILINE)
    assert sorted(listed) == sorted(cli.list_commands(click.Context(cli)))


def test_every_option_says_what_it_is_for():
    assert [
        f"{name} {flag}" for name, command in COMMANDS.items() for flag, one in options(command).items() if not one.help
    ] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_the_output_come_last(name):
    found = list(options(COMMANDS[name]))
    last = [field for field in ("out", "as_json") if field in found]
    assert found[len(found) - len(last) :] == last


def test_the_help_of_a_group_shows_whole_sentences(lazsim):
    _, out, _ = lazsim("trace", "--help")
    assert "check its SHA-256." in " ".join(out.split())


@pytest.mark.parametrize("width", [52, 60, 80])
def test_the_help_of_every_command_fits_the_terminal_and_breaks_no_word(lazsim, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for name, command in (("", cli), *COMMANDS.items()):
        _, out, _ = lazsim(*name.split(), "--help")
        assert [line for line in out.splitlines() if len(line) > width] == [], name
        told = set(out.split())
        words = [word for option in options(command).values() for word in (option.help or "").split()]
        assert [word for word in words if word not in told] == [], name


@pytest.mark.parametrize("text", ["1_000", "\u0663", "8.0", "8k", "nan", "inf", "1e3", ""])
def test_a_whole_number_of_an_option_is_written_as_in_files(refused, text):
    assert "--nodes" in refused("place", "--slots", 6, "--experts", 4, "--loads", "uniform", f"--nodes={text}")


@pytest.mark.parametrize("text", ["1_0", "\u0663", "nan", "inf", "-1", "8k"])
def test_a_number_of_an_option_is_written_as_in_files(refused, text):
    assert "--tolerance" in refused("validate", f"--tolerance={text}")
