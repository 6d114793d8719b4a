"""``lazsim list``: the names that options take, and how to add more."""

import click

from lazsim.cli.base.kinds import OneOf
from lazsim.cli.base.messages import Checked
from lazsim.cli.base.options import json_option, kept
from lazsim.cli.base.results import print_json, show

KINDS = (
    "models", "clusters", "gpus", "jobs", "systems", "policies", "formats", "load-formats", "routing", "traces",
    "experiments",
)  # fmt: skip
IN_TOML = ("models", "clusters", "gpus", "jobs", "routing", "traces")

OWN_TOML = "The path of a .toml file of the same shape works wherever a name does."


@click.command(cls=Checked)
@click.argument("kind", type=OneOf(KINDS), metavar="KIND")
@click.argument("name", required=False)
@json_option
def command(kind: str, name: str | None) -> None:
    """List the names of a kind, and tell where to add more; with a NAME, print its TOML.

    KIND is models, clusters, gpus, jobs, systems, policies, formats, load-formats, routing, traces or experiments.
    """
    if name is not None:
        _show(kind, name)
        return
    from lazsim.output.table import Column, Table, key

    lines, own = _entries(kind)
    table = Table([key(""), Column("", kind="text")], list(lines.items()), notes=[own])
    show({kind: lines}, lambda _: [table])


def _show(kind: str, name: str) -> None:
    """Print a specification with its comments, or as JSON."""
    from lazsim.errors import LazsimError
    from lazsim.routing.loading import UNIFORM
    from lazsim.specs import read_spec_bytes, read_toml

    if (kind, name) == ("routing", UNIFORM):
        raise LazsimError(f"{name}: even loads have nothing to choose, and so no TOML; leave the name out")
    if kind not in IN_TOML:
        raise LazsimError(f"{name}: {kind} have no TOML; leave the name out, or list {', '.join(IN_TOML)}")
    toml = read_spec_bytes(kind, name)
    if kept("as_json"):
        print_json({kind: {name: read_toml(name, toml, dict)}})
    else:
        click.echo(toml, nl=False)


def _entries(kind: str) -> tuple[dict[str, str], str]:
    from lazsim.specs import catalog_names, describe_spec

    if kind == "systems":
        from lazsim.engine import systems

        return systems.REGISTRY.describe(), systems.OWN_SYSTEMS
    if kind == "policies":
        from lazsim.placement import policies

        return policies.REGISTRY.describe(), policies.OWN_POLICIES
    if kind == "experiments":
        from lazsim.study.experiment import experiment_titles

        own = "Each is a folder of experiments/; the path of your own experiment.py works wherever a name does."
        return experiment_titles(), own
    if kind == "formats":
        from lazsim.trace.readers import READERS

        lines = {name: READERS[name].looks for name in sorted(READERS)}
        return lines, "Defined in lazsim/trace/readers/, or as a mapping of columns: a .toml file works as --format."
    if kind == "load-formats":
        from lazsim.routing.readers import READERS as LOAD_READERS

        return {name: reader.looks for name, reader in LOAD_READERS.items()}, "Defined in lazsim/routing/readers/."
    lines = {name: describe_spec(kind, name) for name in catalog_names(kind)}
    if kind == "clusters":
        from lazsim.specs.catalog import SIZED_CLUSTERS

        return lines, f"{', '.join(SIZED_CLUSTERS)} work with any number of nodes, as h100x64. {OWN_TOML}"
    if kind == "routing":
        from lazsim.routing.loading import UNIFORM

        lines[UNIFORM] = "All experts of a layer get the same number of tokens."
    return lines, OWN_TOML
