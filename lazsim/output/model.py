"""The parameters of a model as a table."""

from collections.abc import Iterator

from lazsim.output.table import Column, Part, Table, key
from lazsim.specs import ModelSpec

BILLION = ".4g"


def model_parts(model: ModelSpec) -> Iterator[Part]:
    """Show the parameters by part of a model: all of them, and the active ones, which a token uses."""
    used = model.top_k / model.num_experts
    rows = [
        (name, number / 1e9, number / 1e9 * (used if name == "routed experts" else 1))
        for name, number in model.params.items()
        if number
    ]
    rows.append(("total", model.total_params / 1e9, model.active_params / 1e9))
    notes = ["embeddings count as active; biases and norms do not count"]
    if model.mtp_params:
        notes.append(f"further-token layers have {model.mtp_params / 1e9:{BILLION}} more, all experts included")
    columns = [key("billions of parameters", kind="text"), Column("total", BILLION), Column("active", BILLION)]
    yield Table(columns, rows, f"{model.name}: {size_text(model.total_params, model.active_params)}", notes)


def size_text(total_params: float, active_params: float) -> str:
    """Write how large a model is.

    Examples
    --------
    >>> size_text(46_702_526_464, 12_879_659_008)
    '46.70 B parameters, 12.88 B active'
    """
    return f"{total_params / 1e9:.2f} B parameters, {active_params / 1e9:.2f} B active"
