"""Train through 200 random sequences of kills and joins: ``python -m tests.bench_live [COUNT]``."""

import sys
import time

from lazsim.live.worker_pool import WorkerPool
from tests.live_jobs import NUM_STEPS, Script, largest_difference, random_script, run_live, tiny_spec


def main(num_sequences: int = 200) -> None:
    counts: dict[str, int] = {}
    worst, started_s = 0.0, time.perf_counter()
    with WorkerPool() as pool:
        calm = {top_k: run_live(tiny_spec(top_k=top_k), Script(2), pool)[1] for top_k in (1, 2)}
        for seed in range(1000, 1000 + num_sequences):
            top_k = 1 + seed % 2
            run, blocks = run_live(tiny_spec(top_k=top_k), random_script(seed), pool)
            assert run.run.steps == NUM_STEPS, f"sequence {seed} ended after {run.run.steps} steps"
            difference = largest_difference(blocks, calm[top_k])
            assert difference < 1e-9, f"sequence {seed} ended {difference:g} off"
            worst = max(worst, difference)
            for name, number in run.run.counts.items():
                counts[name] = counts.get(name, 0) + number
    seconds = time.perf_counter() - started_s
    summary = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items() if number)
    print(f"{num_sequences} sequences in {seconds:.0f} s: {summary}; parameters and moments within {worst:.1g}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
