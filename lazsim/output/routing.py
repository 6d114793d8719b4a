"""Expert loads as tables: facts of a recording, and a fit compared with its recording."""

from collections.abc import Mapping, Sequence
from typing import Any

from lazsim.files.writing import toml_text
from lazsim.output.table import Column, Table, facts, key, render, terminal_width

FACTS = {
    "num_steps": "steps recorded", "first_step": "first step", "last_step": "last step", "num_layers": "layers",
    "num_experts": "experts",
}  # fmt: skip
"""Names of facts in tables, where they are other than in JSON."""


def facts_table(found: Mapping[str, float | str]) -> Table:
    """List the facts of a recording."""
    return facts(
        (FACTS.get(name, name), f"{value:.3f}" if isinstance(value, float) else str(value))
        for name, value in found.items()
    )


def balance_table(layers: Sequence[Mapping[str, float]]) -> Table:
    """Show how even the loads of each layer are."""
    columns = [key("layer"), Column("tokens", ",.0f"), Column("fullest over mean", ".3g")]
    columns += [Column("two fullest", ".1%"), Column("idle experts", ".1%")]
    rows = [(str(layer["layer"]), *list(layer.values())[1:]) for layer in layers]
    return Table(columns, rows, "balance of each layer, median over the steps")


def fit_toml(spec: Mapping[str, Any], statistics: Mapping[str, Mapping[str, float]]) -> str:
    """Write the parameters of a generator as TOML; comments compare its loads with the recording."""
    headings = {"recorded": "recorded", "least": "generated, least", "median": "median", "most": "most"}
    columns = [key("statistic"), *(Column(heading, ".3f") for heading in headings.values())]
    rows = [(name, *map(row.__getitem__, headings)) for name, row in statistics.items()]
    comments = render([Table(columns, rows)], terminal_width() - 2).splitlines()
    return "\n".join([toml_text(spec), *(f"# {line}".rstrip() for line in comments)])
