"""``lazsim experiment``: the published evaluation, made again."""

from pathlib import Path

import click

from lazsim.cli.common import OUT, json_option, note, print_json

ALL = "all"
STORE = ".runs"
"""Folder beside the results in which finished runs are kept."""


@click.group()
def command() -> None:
    """Make the figures and tables of the published evaluation again.

    Each is a folder of experiments/ with its specification, and what came out of it.
    """


@command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the experiments, a line each, in the order in which all of them run."""
    from lazsim.experiments import experiment_titles

    titles = experiment_titles()
    if as_json:
        print_json({"experiments": titles})
        return
    width = max(map(len, titles))
    for name, title in titles.items():
        click.echo(f"{name:{width}}  {title}")
    click.echo("A path to a .toml file of the same shape works wherever a name does.")


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME|TOML|all...")
@click.option("--out", type=OUT, required=True, metavar="DIR", help="A folder for each experiment there.")
@click.option("--small", is_flag=True, help="Run the small versions: fewer models, seeds and hours; under a minute.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Worker processes; default: one for each core.")
@click.option(
    "--backend", type=click.Choice(("loky", "ray")), default="loky", show_default=True, help="As lazsim sweep."
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    envvar="LAZSIM_SHARED",
    show_envvar=True,
    metavar="DIR",
    help="Recorded traces and loads (traces/bamboo/p3-trace.csv, routing/smartmoe.npz); default: shared/ beside the "
    "repository. What is missing is generated, and the notes say so.",
)
@json_option
def run(
    names: tuple[str, ...],
    out: Path,
    small: bool,
    jobs: int | None,
    backend: str,
    reference: Path | None,
    as_json: bool,
) -> None:
    """Run experiments: tables as CSV and Markdown, figures as PNG and PDF, and every input.

    Runs are kept in DIR/.runs as they come, so that a second start goes on where the first one was stopped.
    """
    from lazsim.cli.sweep import progress_bar
    from lazsim.experiments import Bench, experiment_titles, find_reference, run_experiment
    from lazsim.files import check_folder, write_all

    check_folder(out)
    titles = experiment_titles()
    bench = Bench(out / STORE, jobs, backend, find_reference(reference), progress_bar)
    done = {}
    for name in dict.fromkeys(each for given in names for each in (titles if given == ALL else [given])):
        outcome = run_experiment(name, bench, small=small)
        folder = out / outcome.name
        files = outcome.files(folder)
        write_all(files)
        for text in outcome.notes:
            note(f"{outcome.name}: {text}")
        note(f"{outcome.name}: results are in {folder}/: {', '.join(path.name for path in files)}")
        done[outcome.name] = {
            "inputs": outcome.inputs,
            "notes": outcome.notes,
            "tables": {key: table.to_dict("records") for key, table in outcome.tables.items()},
        }
        if not as_json:
            click.echo(f"\n{titles.get(name, name)}\n")
            click.echo(outcome.report())
    if as_json:
        print_json({"experiments": done})
