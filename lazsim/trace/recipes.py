"""Entries of the catalogue of traces: recipes of generated traces and addresses of public ones."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from lazsim.errors import SpecError
from lazsim.files.decoding import convert
from lazsim.files.writing import toml_text
from lazsim.specs import ClusterSpec, Spec, catalog_names, read_spec_bytes, read_toml
from lazsim.specs.record import Amount, NumNodes, PositiveSeconds, Quantity, Seconds, Share, given_fields
from lazsim.units import DAY_S


class WeibullSpec(Spec, frozen=True, kw_only=True):
    """A discrete Weibull law: a Weibull draw rounded up to a whole number.

    Notes
    -----
    ``P(X > x) = exp(-(x / scale) ** shape)``, Nakagawa and Osaki, IEEE Transactions on Reliability 24 (1975) 300. Times
    between failures of clusters follow Weibull laws of shape 0.7 to 0.8: Schroeder and Gibson, DSN 2006.
    """

    scale: PositiveSeconds
    """The 63 % quantile before rounding up: seconds for a gap, nodes for a size."""
    shape: Annotated[float, Meta(ge=0.01, le=100)]
    """1 is memoryless (geometric after rounding); below 1, short and long values are both more frequent: bursts."""


class SpotSpec(Spec, frozen=True, kw_only=True, tag_field="kind", tag="spot"):
    """Nodes that a provider takes away in batches and grants again, up to a target."""

    source: str = ""
    """The trace behind the parameters."""
    duration_s: PositiveSeconds
    tick_s: PositiveSeconds
    """Length of the trace; all times are whole multiples of the tick."""
    target_nodes: NumNodes
    initial_nodes: Amount
    """Requested nodes, and nodes alive at the start."""
    loss_gap: WeibullSpec
    """Seconds from a loss to the next, while any node is alive."""
    loss_size: WeibullSpec
    """Nodes of a loss that does not take all."""
    take_all_prob: Share
    """Probability that a loss takes every node."""
    age_exponent: Annotated[float, Meta(ge=-10, le=10)]
    """Exponent of a node's age in its chance to be lost: 0 for a memoryless choice, below 0 if young ones go first."""
    refill_gap: WeibullSpec
    """Seconds from a grant, or from the first loss below the target, to the next grant."""
    refill_size: WeibullSpec
    """Nodes of a grant, cut at the target."""

    def __post_init__(self) -> None:
        _require(self.tick_s <= self.duration_s, "need tick_s <= duration_s")
        _require(self.initial_nodes <= self.target_nodes, "need initial_nodes <= target_nodes")


class ScheduleSpec(Spec, frozen=True, kw_only=True, tag_field="kind", tag="schedule", omit_defaults=True):
    """One node, drawn uniformly from those alive, fails after each interval."""

    source: str = ""
    """Origin of the schedule."""
    num_nodes: NumNodes
    num_left: Amount
    """Nodes alive at the start, and the number at which no more fail."""
    interval_s: PositiveSeconds
    duration_s: PositiveSeconds
    """Time between failures, the first of which comes after one interval; length of the trace."""
    jitter: Share = 0.0
    """Share by which an interval is shorter or longer, at most: 1 draws it uniformly from 0 to twice its length."""
    absent_s: Seconds = 0.0
    """Time until a failed node is back; 0 where none comes back."""

    def __post_init__(self) -> None:
        _require(self.num_left <= self.num_nodes, "need num_left <= num_nodes")


class MarketSpec(Spec, frozen=True, kw_only=True, tag_field="kind", tag="market"):
    """Nodes that a spot market takes and grants by the hour, each for itself (Bamboo's simulator, NSDI 2023).

    Notes
    -----
    Each clock hour has a probability that a missing node is granted, drawn uniformly from 0 to 1; with that of the
    first hour each node is there at the start. A missing node is asked for at once, and at each full hour again. What
    happens in an hour does so at a second drawn uniformly from the hour that follows the draw.
    """

    source: str = ""
    """Origin of the probabilities."""
    num_nodes: NumNodes
    """Requested nodes."""
    loss_prob: Share
    """Probability that a node is taken in an hour of its life."""
    duration_s: PositiveSeconds
    """Length of the trace."""


class PoolSpec(Spec, frozen=True, kw_only=True, tag_field="kind", tag="pool"):
    """A job whose failed servers are replaced from a pool and repaired, as one node (AIReSim, arXiv 2603.07041).

    The node is gone while a server is missing. Each failure stops the job, and servers fail only while it runs.

    Notes
    -----
    The standby that has waited longest takes over. A repaired server goes to the pool, from which a server drawn at
    random becomes a standby where one is missing. When none is left, all standbys are chosen anew, at random.
    """

    source: str = ""
    """Origin of the numbers."""
    num_servers: NumNodes
    num_standbys: Amount
    """Servers that the job needs, and those that it holds ready."""
    pool_servers: NumNodes
    spare_servers: Amount
    """Servers of the pool that both are from, and of another one, from which servers are taken when that is empty."""
    failures_per_day: Quantity
    """Failures of a good server in a day of work."""
    bad_share: Share
    bad_multiple: Quantity
    """Share of bad servers, and how many times the rate of a good one they have on top."""
    recovery_s: Seconds
    """Time for which a failure stops the job."""
    selection_s: Seconds
    preemption_s: Seconds
    """More time when no standby is left: to choose standbys anew, and to get each server of the other pool."""
    auto_repair_s: PositiveSeconds
    manual_repair_s: PositiveSeconds
    """Mean times of repairs, which are exponential."""
    manual_share: Share
    auto_fail_prob: Share
    manual_fail_prob: Share
    """Share of failures that need a manual repair after the automatic one; probabilities that a repair leaves a bad
    server bad."""
    undiagnosed_share: Share = 0.0
    """Share of failures after which the server is a standby at once, as it was."""
    work_s: PositiveSeconds
    """Work of the job."""

    def __post_init__(self) -> None:
        _require(
            self.pool_servers >= self.num_servers + self.num_standbys,
            "need pool_servers for num_servers and num_standbys",
        )
        _require(self.failures_per_day > 0, "need failures_per_day above 0")


class MtbfSpec(Spec, frozen=True, kw_only=True, tag_field="kind", tag="mtbf"):
    """Nodes that fail at a rate of their own, alone or in batches, and come back under their names when repaired.

    Notes
    -----
    Times between failures of a node follow Weibull laws of shape 0.7 to 0.8, and repair times log-normal ones:
    Schroeder and Gibson, DSN 2006. A node that is down already stays out of a batch. Failures and batches do not depend
    on each other, nor on work (assumptions).
    """

    source: str = ""
    """Origin of the rates."""
    num_nodes: NumNodes
    """Nodes of the cluster; all are alive at the start."""
    mtbf_s: PositiveSeconds
    """Mean time alive of a node between its failures, batches included. A node is alive for ``mtbf_s / (mtbf_s +
    repair_s)`` of the time."""
    shape: Annotated[float, Meta(ge=0.2, le=20)] = 1.0
    """Shape of the Weibull law of the times alive: 1 is memoryless (exponential). Below 1, nodes that come back tend to
    fail again soon (infant failures); above 1 they wear out."""
    new_nodes: bool = False
    """Whether every node is new at the start, so that infant failures come first. By default the cluster has run for
    long, and the rate of failures is that of the mean from the start."""
    repair_s: PositiveSeconds
    """Mean time from a failure to the return."""
    repair_sigma: Annotated[float, Meta(ge=0, le=5)] | None = None
    """Standard deviation of the logarithm of a log-normal repair time; 0 is always the mean. By default repair times
    are exponential."""
    batch_share: Share = 0.0
    """Share of a node's failures in which a batch of nodes fails, and comes back, together."""
    num_domains: Amount = 0
    """Failure domains, such as racks, of equal size and successive nodes; a batch is a whole domain."""
    nodes_per_domain: Amount = 0
    """Nodes of a domain, of which the last may have fewer, in place of their number: as a cluster's file has them."""
    batch_nodes: Amount = 0
    """Nodes of a batch that are drawn from the whole cluster, in place of domains."""
    duration_s: PositiveSeconds
    """Length of the trace."""

    def __post_init__(self) -> None:
        sizes = [size for size in (self.num_domains, self.nodes_per_domain, self.batch_nodes) if size]
        ways = "`num_domains`, `batch_nodes` or `nodes_per_domain` (that of a `cluster`)"
        _require(len(sizes) <= 1, f"give only one of {ways}: each says which nodes fail together")
        _require(bool(sizes) or not self.batch_share, f"`batch_share` also needs one of {ways}")
        _require(not sizes or self.batch_share > 0, f"give a `batch_share` above 0 with {ways}, or none of these")
        most = max(self.num_domains, self.batch_nodes)
        _require(most <= self.num_nodes, "`num_domains` and `batch_nodes` are at most `num_nodes`")


class PublicSpec(Spec, frozen=True, kw_only=True, tag_field="kind", tag="public"):
    """A trace that others published, at a fixed commit of a repository."""

    licence: str
    """Terms of its publication."""
    repository: str
    commit: str
    path: str
    """``owner/name``, commit and path of the file."""
    sha256: str
    """Hash of the file's bytes."""
    format: str
    """Format for the reader."""


Recipe = SpotSpec | MtbfSpec | ScheduleSpec | MarketSpec | PoolSpec | PublicSpec


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def load_recipe(name: str) -> Recipe:
    """Read an entry of the catalogue of traces, or a path that ends in ``.toml``.

    Raises
    ------
    LazsimError
        When there is no such entry or file, or it does not hold such a specification.

    Examples
    --------
    >>> load_recipe("fail-every-5min").num_nodes
    10
    """
    decode: Callable[..., Recipe] = read_toml
    return decode(name, read_spec_bytes("traces", name), Recipe)


def change_recipe(name: str | None, changes: Mapping[str, Any], cluster: ClusterSpec | None = None) -> Recipe:
    """Change fields of a recipe, or make a `MtbfSpec` of them where there is none.

    Parameters
    ----------
    name
        See `load_recipe`.
    changes
        Values by field. Without a recipe, `num_nodes`, `mtbf_s` and `repair_s` are needed, and a trace is 30 days long.
    cluster
        Has the number of nodes, and the domains of batches, where the changes have neither.

    Raises
    ------
    LazsimError
        When a field is missing, not one of the recipe, out of its range or without effect.
    """
    if cluster is not None:
        changes = {"num_nodes": cluster.num_nodes, **changes}
        if (
            cluster.nodes_per_domain
            and changes.get("batch_share")
            and not {"num_domains", "batch_nodes"} & set(changes)
        ):
            changes["nodes_per_domain"] = cluster.nodes_per_domain
    if name is None:
        missing = [field for field in ("num_nodes", "mtbf_s", "repair_s") if field not in changes]
        if missing:
            raise SpecError(f"give {' and '.join(f'`{field}`' for field in missing)}, or a recipe")
        plain = {"kind": "mtbf", "duration_s": 30 * DAY_S, **changes}
    else:
        recipe = load_recipe(name)
        fields = recipe.__struct_fields__
        for field in changes:
            if field not in fields:
                raise SpecError(f"`{field}`: {name} is a recipe without it; it has {', '.join(fields)}")
        if not changes:
            return recipe
        plain = msgspec.to_builtins(recipe) | changes
    decode: Callable[..., Recipe] = convert
    made = decode(plain, Recipe)
    if isinstance(made, MtbfSpec) and changes.get("new_nodes") and made.shape == 1:
        raise SpecError(
            "`new_nodes` has no effect where `shape` is 1, which is memoryless: give another, or leave it out"
        )
    return made


def list_recipes() -> dict[str, Recipe]:
    """Read every entry of the catalogue of traces."""
    return {name: load_recipe(name) for name in catalog_names("traces")}


def recipe_toml(recipe: Recipe, above: Iterable[str] = ()) -> str:
    """Write a recipe as the TOML text that `load_recipe` reads, without fields at their defaults; see `toml_text`."""
    return toml_text(given_fields(recipe), above)
