"""How long recovery probabilities take, beside plain ways to the same numbers.

Each case returns a function to time; `REFERENCES` has the plain way to some of them, scaled as said there.
"""

import itertools
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from lazsim.placement.allocation import allocate
from lazsim.placement.baselines import place_random, place_spread
from lazsim.placement.mro import place_mro
from lazsim.placement.plan import Bools, Ints, PlacementPlan
from lazsim.reliability import recovery_curve

NUM_LAYERS = 58
HALF_WIDTH = 0.001
DEEPSEEK = {"num_experts": 256, "num_nodes": 128, "num_slots": 32}

Place = Callable[[Ints, int, int], PlacementPlan]


def least_cpu_s(call: Callable[[], object], repeat: int) -> float:
    """Return the least CPU seconds of several calls: on a shared machine others do not count, or count for less."""
    times = []
    for _ in range(repeat):
        start_s = time.process_time()
        call()
        times.append(time.process_time() - start_s)
    return min(times)


def zipf_loads(num_layers: int, num_experts: int, exponent: float, rng: np.random.Generator) -> Ints:
    """Draw loads of a million tokens; the rank of an expert differs between layers."""
    share = np.arange(1, num_experts + 1) ** -exponent
    return np.array([rng.permutation(rng.multinomial(10**6, share / share.sum())) for _ in range(num_layers)])


def plan_holds(
    place: Place,
    num_experts: int,
    num_nodes: int,
    num_slots: int,
    exponent: float = 1.2,
    min_replicas: int = 2,
    num_layers: int = NUM_LAYERS,
) -> Bools:
    """Place skewed loads."""
    loads = zipf_loads(num_layers, num_experts, exponent, np.random.default_rng(0))
    replicas = allocate(loads, num_nodes * num_slots, min_replicas)
    return place(replicas, num_nodes, num_slots).holds_LEN


def placed_at_random(replicas_LE: Ints, num_nodes: int, num_slots: int) -> PlacementPlan:
    """Place at random, which leaves no structure to be exact with."""
    return place_random(replicas_LE, num_nodes, num_slots, 0)


def shuffled_mro(replicas_LE: Ints, num_nodes: int, num_slots: int) -> PlacementPlan:
    """Place by MRO, each layer on nodes in an order of its own: many different failure sets."""
    plan, rng = place_mro(replicas_LE, num_nodes, num_slots), np.random.default_rng(0)
    slots = np.stack([layer[rng.permutation(num_nodes)] for layer in plan.slots_LNS])
    return PlacementPlan(slots, plan.num_experts)


def all_failures(holds_LEN: Bools, method: str = "auto") -> Callable[[], object]:
    """Return the call that is timed: every number of failed nodes, failure sets included."""
    failures = range(holds_LEN.shape[2] + 1)
    return lambda: recovery_curve(holds_LEN, failures, method, np.random.default_rng(0), HALF_WIDTH)


def on_20_nodes(place: Place) -> Callable[[], object]:
    """58 layers of 32 experts on 20 nodes of 8 slots, all numbers of failures, exactly."""
    return all_failures(plan_holds(place, 32, 20, 8, min_replicas=4), "exact")


def deepseek(place: Place, exponent: float = 1.2, min_replicas: int = 2) -> Callable[[], object]:
    """58 layers of 256 experts on 128 nodes of 32 slots, all numbers of failures."""
    return all_failures(plan_holds(place, **DEEPSEEK, exponent=exponent, min_replicas=min_replicas))


CASES: dict[str, Callable[[], Callable[[], object]]] = {
    "recovery, 58 layers, 20 nodes, all k, exact": partial(on_20_nodes, shuffled_mro),
    "the same placed at random": partial(on_20_nodes, placed_at_random),
    "recovery, deepseek-v3, 128 nodes, mro, all k": partial(deepseek, place_mro),
    "the same, spread": partial(deepseek, place_spread),
    "the same, random, to 0.001": partial(deepseek, placed_at_random),
    "the same, random, 4 replicas or more, to 0.001": partial(deepseek, placed_at_random, min_replicas=4),
    "the same, random, equal loads, to 0.001": partial(deepseek, placed_at_random, exponent=0.0),
}
"""Name -> what makes the call that is timed."""


def count_naively(holds_LEN: Bools, failures: int) -> float:
    """Go through all sets of so many failed nodes, one after the other."""
    experts = [set(np.flatnonzero(expert).tolist()) for layer in holds_LEN for expert in layer]
    survived = total = 0
    for failed in itertools.combinations(range(holds_LEN.shape[2]), failures):
        lost = set(failed)
        survived += not any(nodes <= lost for nodes in experts)
        total += 1
    return survived / total


def sample_naively(holds_LEN: Bools, failures: int, num_samples: int) -> float:
    """Draw sets of so many failed nodes, and look at every expert of every layer."""
    rng = np.random.default_rng(0)
    survived = 0
    for _ in range(num_samples):
        alive = rng.permutation(holds_LEN.shape[2])[failures:]
        survived += bool(holds_LEN[:, :, alive].any(axis=2).all())
    return survived / num_samples


NAIVE_FAILURES = 5
NAIVE_SAMPLES = 200

REFERENCES: dict[str, tuple[Callable[[], Callable[[], object]], float]] = {
    "recovery, 58 layers, 20 nodes, all k, exact": (
        # 5 of 20 nodes are 15,504 of the 2**20 sets of failed nodes.
        lambda: partial(count_naively, plan_holds(shuffled_mro, 32, 20, 8, min_replicas=4), NAIVE_FAILURES),
        2**20 / 15_504,
    ),
    "the same, random, to 0.001": (
        # An interval of +-0.001 around one half takes 960,400 outcomes, for a single number of failures.
        lambda: partial(sample_naively, plan_holds(placed_at_random, **DEEPSEEK), 2, NAIVE_SAMPLES),
        960_400 / NAIVE_SAMPLES,
    ),
}
"""Case -> what makes the call of the plain way, and how many times longer the whole of it takes."""
