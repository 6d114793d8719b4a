"""``lazsim experiment``: the published evaluation, made again."""

from pathlib import Path
from statistics import mode
from typing import Any

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.messages import CommandGroup
from lazsim.cli.base.options import backend_option, jobs_option, json_option, kept
from lazsim.cli.base.progress import progress_bar
from lazsim.cli.base.results import note, print_json, write_results
from lazsim.cli.list import command as list_names
from lazsim.errors import LazsimError

STORE = ".runs"
"""Folder beside the results that keeps finished runs."""


@click.group(cls=CommandGroup)
def command() -> None:
    """Make the figures and tables of the published evaluation again.

    Each experiment is a short script, experiments/NAME/experiment.py, with its results in the README beside it.
    """


@command.command("list")
@json_option
@click.pass_context
def list_command(context: click.Context) -> None:
    """List the experiments, as `lazsim list experiments` does."""
    context.invoke(list_names, kind="experiments")


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME|SCRIPT|all...")
@click.option("--small", is_flag=True, help="Run the small versions: fewer models, seeds and hours; under a minute.")
@jobs_option
@backend_option
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    envvar="LAZSIM_SHARED",
    show_envvar=True,
    metavar="DIR",
    help="Folder of recorded traces and loads; default: ../shared. What is missing there is generated, and the notes "
    "say so.",
)
@click.option("--out", type=kinds.OutFolder(), required=True, help="Write a folder for each experiment there.")
@json_option
def run(names: tuple[str, ...], out: Path, reference: Path | None, **options: Any) -> None:
    """Run experiments: tables as CSV and Markdown, figures as PNG and PDF, and every input.

    An experiment is a name of `lazsim list experiments`, or the path of a script such as mine/experiment.py: copy one
    of experiments/ and change its settings. Runs are kept in DIR/.runs as they come, so that a second start goes on
    where the first one was stopped.
    """
    from lazsim.files.folders import refuse_foreign
    from lazsim.output.experiment import outcome_files, outcome_text
    from lazsim.study.experiment import Context, experiment_titles, find_reference, load_experiment

    context = Context(
        store=out / STORE, reference=find_reference(reference), progress=progress_bar, tell=note, **options
    )
    if len(names) > len(set(names)):
        raise LazsimError(f"{mode(names)} is given twice: give it once")
    asked = [each for given in names for each in (experiment_titles() if given == "all" else [given])]
    experiments = [load_experiment(name) for name in dict.fromkeys(asked)]
    for experiment in experiments:
        refuse_foreign(out / experiment.name, ["run.json"])
    done = {}
    for experiment in experiments:
        folder = out / experiment.name
        outcome = experiment.run(context)
        written = write_results(folder, experiment.name, outcome_files(outcome, experiment.name))
        if not kept("as_json"):
            click.echo(f"\n{outcome_text(outcome, title=experiment.title or experiment.name)}")
        for text in (*outcome.notes, f"results are in {folder}/: {', '.join(written)}"):
            note(f"{experiment.name}: {text}")
        done[experiment.name] = {
            "inputs": outcome.inputs,
            "notes": outcome.notes,
            "tables": {key: table.to_dict("records") for key, table in outcome.tables.items()},
        }
    if kept("as_json"):
        print_json({"experiments": done})
