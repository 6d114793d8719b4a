"""Exhaustive search for the best placement of one layer, by trying every plan there is.

``python -m tests.exhaustive NODES SLOTS EXPERTS`` prints the rows of ``golden/placement_optima.csv`` up to these sizes:
seconds for ``5 3 6``, hours for ``6 4 8``. That file has all of the latter but the last 25 of the largest shape, 6
nodes of 4 slots with 8 experts, and 41 larger instances, each of them searched on its own with `best`.
"""

import csv
import sys
from collections.abc import Iterator
from itertools import combinations


def survivors(plan: list[int], num_experts: int) -> list[int]:
    """Count the sets of 1, 2, .. N live nodes that hold every expert; a plan is each node's bit set of experts."""
    full = (1 << num_experts) - 1
    unions = [0]
    for held in plan:
        unions += [union | held for union in unions]
    counts = [0] * len(plan)
    for live, union in enumerate(unions):
        if union == full:
            counts[live.bit_count() - 1] += 1
    return counts


def best(replicas: tuple[int, ...], num_nodes: int, num_slots: int) -> list[int]:
    """Return, for 1, 2, .. N live nodes, the most sets of them that hold every expert under any plan."""
    num_experts = len(replicas)
    choices = [
        sum(1 << expert for expert in held)
        for size in range(min(num_slots, num_experts), 0, -1)
        for held in combinations(range(num_experts), size)
    ]
    top = [0] * num_nodes
    for plan in _plans(choices, list(replicas), num_nodes):
        top = list(map(max, top, survivors(plan, num_experts)))
    return top


def _plans(choices: list[int], left: list[int], num_nodes: int) -> Iterator[list[int]]:
    if num_nodes == 0:
        yield []
        return
    for index, held in enumerate(choices):
        rest = [number - (held >> expert & 1) for expert, number in enumerate(left)]
        if min(rest) >= 0:
            for plan in _plans(choices[index:], rest, num_nodes - 1):
                yield [held, *plan]


def allocations(total: int, num_experts: int, least: int = 1) -> Iterator[tuple[int, ...]]:
    """Yield every ascending tuple of so many numbers from `least` up with the given sum."""
    if num_experts == 1:
        yield (total,)
        return
    for head in range(least, total // num_experts + 1):
        for tail in allocations(total - head, num_experts - 1, head):
            yield (head, *tail)


def instances(most_nodes: int, most_slots: int, most_experts: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Yield nodes, slots and replicas of every instance up to these sizes."""
    for num_nodes in range(2, most_nodes + 1):
        for num_slots in range(1, most_slots + 1):
            for num_experts in range(2, min(most_experts, num_nodes * num_slots) + 1):
                for replicas in allocations(num_nodes * num_slots, num_experts):
                    yield num_nodes, num_slots, replicas


if __name__ == "__main__":
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["nodes", "slots", "replicas", "survivors"])
    for num_nodes, num_slots, replicas in instances(*map(int, sys.argv[1:4])):
        optimum = best(replicas, num_nodes, num_slots)
        rows.writerow([num_nodes, num_slots, " ".join(map(str, replicas)), " ".join(map(str, optimum))])
