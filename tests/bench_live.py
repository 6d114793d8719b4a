"""Train through random sequences of kills and joins: ``python -m tests.bench_live [COUNT]``.

Under every system, the parameters in the end are those of an undisturbed run, under `replica-drop` those of one process
that trains the same sequences. Lazarus has COUNT sequences, the others half as many each or, where they only restart or
regroup, a quarter.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable

from lazsim.engine.systems import LIVE_SYSTEMS
from lazsim.live.record import LiveRun
from lazsim.live.worker_pool import WorkerPool
from tests.live_jobs import (
    NUM_STEPS,
    Script,
    Witness,
    largest_difference,
    random_script,
    run_live,
    tiny_spec,
    train_alone,
)

ROUNDING = 1e-9


def main(num_sequences: int = 200) -> None:
    with WorkerPool() as pool:
        calm = {top_k: run_live(tiny_spec(top_k=top_k), Script(2), pool)[1] for top_k in (1, 2)}

        def lazarus(seed: int) -> tuple[LiveRun, float]:
            top_k = 1 + seed % 2
            run, blocks = run_live(tiny_spec(top_k=top_k), random_script(seed), pool)
            return run, largest_difference(blocks, calm[top_k])

        def replica_drop(seed: int) -> tuple[LiveRun, float]:
            # With two nodes to a replica, or one; the witness asserts that no step is lost while a replica is left.
            spec = tiny_spec("replica-drop", slots_per_node=3 + seed % 2)
            witness = random_script(seed, Witness)
            run, blocks = run_live(spec, witness, pool)
            return run, largest_difference(blocks, train_alone(spec, witness.sequences))

        def async_checkpoint(seed: int) -> tuple[LiveRun, float]:
            # The witness asserts that at most the save under way and the steps since the one before it are lost.
            run, blocks = run_live(tiny_spec("async-checkpoint", interval=3), random_script(seed, Witness), pool)
            return run, largest_difference(blocks, calm[1])

        def expert_parallel(system: str) -> Callable[[int], tuple[LiveRun, float]]:
            def train(seed: int) -> tuple[LiveRun, float]:
                run, blocks = run_live(tiny_spec(system, interval=4), random_script(seed), pool)
                return run, largest_difference(blocks, calm[1])

            train.__name__ = system
            return train

        systems = {lazarus: 1, replica_drop: 2, async_checkpoint: 2}
        others = LIVE_SYSTEMS.keys() - {"lazarus", "replica-drop", "async-checkpoint"}
        systems |= {expert_parallel(name): 4 for name in sorted(others)}
        for train, part in systems.items():
            number = num_sequences // part
            counts, worst, started_s = Counter[str](), 0.0, time.perf_counter()
            for seed in range(1000, 1000 + number):
                run, difference = train(seed)
                assert run.run.steps == NUM_STEPS, f"{train.__name__} {seed} ended after {run.run.steps} steps"
                assert difference < ROUNDING, f"{train.__name__} {seed} ended {difference:g} off"
                worst = max(worst, difference)
                counts.update(run.run.counts)
            seconds = time.perf_counter() - started_s
            summary = ", ".join(f"{many} {name.replace('_', ' ')}" for name, many in counts.items() if many)
            print(f"{train.__name__}: {number} sequences in {seconds:.0f} s: {summary}; within {worst:.1g}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
