"""``lazsim model``: the parameters of models, and models of Hugging Face."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.messages import CommandGroup
from lazsim.cli.base.options import json_option
from lazsim.cli.base.results import note, show, write_out

if TYPE_CHECKING:
    from lazsim.specs import ModelSpec


@click.group(cls=CommandGroup)
def command() -> None:
    """Count the parameters of models, and import those of Hugging Face."""


@command.command("show")
@click.argument("model")
@json_option
def show_command(model: str) -> None:
    """Print the parameters of a model: a name of the catalogue, a .toml file or a config.json."""
    from lazsim.specs import ModelSpec, load_spec

    _show(load_spec(ModelSpec, model))


@command.command(name="import")
@click.argument("config", metavar="CONFIG.json")
@click.option("--out", type=kinds.OUT_FILE, metavar="FILE.toml", help="Write the model as TOML, to change any number.")
@json_option
def import_(config: str, out: Path | None) -> None:
    """Read the config.json of a Hugging Face model, and print its parameters.

    The file itself works wherever a model is asked for, as in lazsim run --model config.json.
    """
    from lazsim.files.reading import read_bytes
    from lazsim.limits import MAX_CONFIG_BYTES
    from lazsim.specs import ModelSpec, read_toml
    from lazsim.specs.huggingface import import_config

    toml, left_out = import_config(config, read_bytes(config, MAX_CONFIG_BYTES), is_checked=True)
    model = read_toml(config, toml, ModelSpec)
    if out is not None:
        write_out(out, toml)
        note(f"the model is in {out}")
    notes = [f"{one} Compare the parameters with the published ones" for one in left_out]
    _show(
        model,
        [*notes, f"training sequences of {model.sequence_length} tokens are assumed: no config tells their length"],
    )


def _show(model: "ModelSpec", notes: list[str] | None = None) -> None:
    import msgspec

    from lazsim.output.model import model_parts

    numbers = {field: getattr(model, field) for field in ("total_params", "active_params", "mtp_params", "params")}
    found = {"name": model.name, **numbers, "spec": msgspec.to_builtins(model)}
    show(found, lambda _: model_parts(model), notes)
