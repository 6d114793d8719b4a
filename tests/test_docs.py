"""The documentation: links that resolve, commands that exist, examples that run."""

import doctest
import importlib.util
import json
import pkgutil
import re
import shlex
import sys

import click
import pytest

from lazsim.cli.base.group import cli
from lazsim.placement.policies import POLICIES
from tests.conftest import ROOT

REPOSITORY = re.compile(
    r"https://(?:github\.com/lazsim/lazsim/(?:blob|tree)|raw\.githubusercontent\.com/lazsim/lazsim)/main/(.*)"
)
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "experiments/*/README.md", "traces/README.md")
    for path in ROOT.glob(pattern)
)
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
ENTRY_POINT_GROUPS = {"lazsim.policies", "lazsim.systems"}
LINK = re.compile(r"\]\(([^)\s]+)\)")


def slugs(text):
    """Return the anchors of a page, as GitHub and MkDocs make them from its headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in plain}


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_readme_links_work_on_a_package_index():
    links = LINK.findall(FENCE.sub("", (ROOT / "README.md").read_text()))
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_to_files_and_anchors_resolve(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        own = REPOSITORY.fullmatch(link)
        if link.startswith("http") and own is None:
            continue
        path, _, anchor = (own[1] if own else link).partition("#")
        target = ROOT / path if own else page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in slugs(target.read_text()), f"{page.name}: {link}"


def commands(text):
    """Yield the arguments of every ``lazsim`` command line that a page shows."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in re.findall(r"^ {4,}(?:\$ )?(?:\S*/bin/)?lazsim (.+)$", joined, re.MULTILINE):
        yield shlex.split(line, comments=True)
    for span in re.findall(r"(?<!`)`(?:\S*/bin/)?lazsim ([^`]+)`(?!`)", text.replace("\n", " ")):
        yield shlex.split(span)


def parse(arguments):
    """Follow a command line through the commands; return what is wrong with it."""
    command, called = cli, ["lazsim"]
    for position, argument in enumerate(arguments):
        if argument.startswith("-") or not isinstance(command, click.Group):
            options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            options |= {"-h", "--help"}
            shown = [word.split("=")[0].strip("[].,") for word in arguments[position:]]
            unknown = [word for word in shown if re.match(r"--?[A-Za-z]", word) and word not in options]
            return f"{' '.join(called)} has no {unknown}" if unknown else ""
        if re.fullmatch(r"[A-Z]+|\.\.\.", argument):
            return ""
        alternatives = argument.split("|")
        found = [command.get_command(click.Context(command), name) for name in alternatives]
        if None in found:
            return f"{' '.join(called)} has no command {argument}"
        command = found[0]
        called.append(argument)
    return ""


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_that_a_page_shows_exist(page):
    assert [fault for arguments in commands(page.read_text()) if (fault := parse(arguments))] == []


def test_pictures_are_drawn_by_commands_that_pages_show():
    def settings(text):
        """Return commands without folders, in which a page and the Makefile may differ."""
        for arguments in commands(text.replace("$(BIN)/", "").replace("\t", "    ").replace("runs/", "")):
            yield tuple(
                argument
                for argument, before in zip(arguments, ["", *arguments[:-1]], strict=True)
                if "--out" not in (argument, before)
            )

    recipe = (ROOT / "Makefile").read_text().partition("\nimages: ")[2].partition("\n\n")[0]
    shown = {one for page in PAGES for one in settings(page.read_text())}
    drawn = set(settings(recipe))
    assert len(drawn) == 5
    assert drawn <= shown


def keys(value):
    """Yield the keys of JSON, without those of what has names of its own: specifications, systems, policies, parts."""
    for key, one in value.items() if isinstance(value, dict) else ():
        yield key
        if key not in SPECIFICATIONS:
            yield from keys([*one.values()] if key in NAMED and isinstance(one, dict) else one)
    for one in value if isinstance(value, list) else ():
        yield from keys(one)


def unnamed_keys(found, command):
    """Return the keys of the JSON of a command that its part of the guide does not name; numbers of nodes are none.

    Runs are described once, under ``run``, for all commands that have some.
    """
    begin, *parts = re.split(r"^## ", (ROOT / "docs" / "guides" / "json.md").read_text(), flags=re.MULTILINE)
    told = {part.partition("\n")[0]: part for part in parts}
    own = next(part for names, part in told.items() if command in names.split(", "))
    said = set(re.findall(r"`(\w+)`", begin + own + told["run"] * (command in OF_RUNS)))
    statistics = re.compile(r".*_(step|top|layers)_\w+|\w+_steps|\d+")
    return {key for key in keys(found) if not statistics.fullmatch(key)} - said


OF_RUNS = ("sweep", "advise", "live", "validate")
SPECIFICATIONS = ("inputs", "spec", "layout", "recipe")
# What these hold has names that systems, policies and parts have.
NAMED = ("exposed_s", "hidden_s", "plans", "scores", "policies", "samples")
NAMED += (
    "samples_change",
    "ratio_change",
    "ledger_s",
    "seconds",
    "memory_bytes",
    "params",
    "fit",
    "offers",
    "simulated",
)
# Systems whose settings have keys of their own.
CHOOSING = ("--system", "gemini", "--system", "moc", "--system", "spare")
PLACED = ("--nodes", 4, "--slots", 4, "--experts", 8, "--loads", "zipf:1.2")


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--trace", "fail-every-5min", "--duration", "7min", "--system", "lazarus", "--placement", "mro"),
        ("run", "--trace", "fail-every-5min", "--duration", "2min", *CHOOSING, "--interval", "auto"),
        ("sensitivity", "--trace", "fail-every-5min", "--duration", "2min", "--system", "ds", "--constant", "detect_s"),
        ("place", *PLACED, "--lose", 0, "--model", "gpt-s", "--gpu", "a100"),
        ("place", *PLACED, "--old", "{place}"),
        ("recovery", *PLACED, "--layers", 2, "--failures", 1, "--node-fail-prob", 0.1),
        ("step", "--model", "mixtral-8x7b", "--cluster", "dgx-h100", "--gpus", 64, "--layout", "global_batch=64"),
        ("trace", "info", "traces/spot-p3-like.csv"),
        ("trace", "fit", "traces/spot-p3-like.csv", "--seeds", 1),
        ("routing", "info", "traces/routing/live-deep.csv"),
        ("model", "show", "gpt-s"),
        ("profile", "check", "h200", "--model", "gpt-s"),
    ],
    ids=lambda command: " ".join(map(str, command[:2])),
)
def test_the_guide_names_every_key_of_json(lazsim, tmp_path, command):
    if "{place}" in command:
        lazsim("place", *PLACED, "--policy", "mro", "--out", tmp_path)
    command = [str(one).replace("{place}", f"{tmp_path}/place.json") for one in command]
    code, out, err = lazsim(*command, "--json")
    assert code == 0, err
    assert unnamed_keys(json.loads(out), command[0]) - {*POLICIES} == set()


def test_the_examples_of_the_guide_to_notebooks_print_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "guides" / "notebook.md"
    assert doctest.testfile(str(page), module_relative=False).failed == 0


def test_the_sweep_of_the_guide_to_costs_prints_what_it_shows(lazsim, tmp_path):
    text = (ROOT / "docs" / "guides" / "cost.md").read_text()
    [(spec, shown)] = re.findall(r"```toml\n(\[base\].*?)```\n\n```\n(.*?)```", text, re.DOTALL)
    (tmp_path / "grid.toml").write_text(spec)
    code, out, err = lazsim("sweep", tmp_path / "grid.toml", "--out", tmp_path / "out", "--jobs", 1)
    assert code == 0, err
    assert shown in re.sub(r" +$", "", out, flags=re.MULTILINE)


def example(name):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", text, re.DOTALL)[1]


def test_the_reader_of_contributing_reads_and_is_registered_by_its_file_alone(tmp_path, monkeypatch):
    from lazsim.trace import readers

    (tmp_path / "updown.py").write_text(example("reader"))
    spec = importlib.util.spec_from_file_location("updown", tmp_path / "updown.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "updown", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(readers.READERS, "updown", module.READER)
    (tmp_path / "trace").write_text("0 a up\n0 b up\n60 a down\n")
    trace = readers.read_trace(tmp_path / "trace")
    assert trace.format == "updown"
    assert trace.num_alive()[1].tolist() == [2, 1]


def test_the_reader_of_loads_of_contributing_reads_and_is_registered_by_its_file_alone(tmp_path, monkeypatch):
    from lazsim.routing import readers

    scope = {}
    exec(example("load reader"), scope)
    monkeypatch.setitem(readers.READERS, "mine", scope["READER"])
    (tmp_path / "loads").write_text("3: 60 30 10\n4: 0.5 0.25 0.25\n")
    recorded = readers.read_routing(str(tmp_path / "loads"))
    assert recorded.layer_numbers == (3, 4)
    assert recorded.tokens_SLE[0, :, 0].tolist() == [60 * 2**17, 2**16]


def test_the_policy_of_contributing_places():
    import numpy as np

    from lazsim.placement.request import PlacementRequest

    scope = {}
    exec(example("policy"), scope)
    plan = scope["place_in_order"](PlacementRequest(np.array([[2, 1, 3]]), num_nodes=3, num_slots=2))
    assert plan.slots_LNS.tolist() == [[[0, 0], [1, 2], [2, 2]]]


def test_the_system_of_contributing_can_be_made():
    exec(example("system"), {})


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.stem)
def test_files_and_names_that_a_page_mentions_exist(page):
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text()))
    paths = [span for span in spans if re.fullmatch(r"(lazsim|tests|experiments|traces|docs)/[\w./-]+", span)]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    names = [span for span in spans if re.fullmatch(r"lazsim(\.\w+)+", span)]
    assert [name for name in names if name not in ENTRY_POINT_GROUPS and not resolves(name)] == []


def resolves(name):
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True
