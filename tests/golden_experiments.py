"""Tables that small experiments are held against: ``python -m tests.golden_experiments`` writes them anew.

They are what lazsim computed when it was last looked at, not what somebody published: explain a change of them.
"""

from pathlib import Path

from lazsim.output.experiment import frame_csv
from lazsim.study.experiment import Context, Outcome, experiment_titles, load_experiment

FOLDER = Path(__file__).parent / "golden" / "experiments"
CONTEXT = Context(small=True, num_workers=1, recorded=False)


def small(name: str) -> Outcome:
    """Run the small version of an experiment on generated data, in this process."""
    return load_experiment(name).run(CONTEXT)


def main() -> None:
    """Write all tables."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in experiment_titles():
        for table, frame in small(name).tables.items():
            (FOLDER / f"{name}.{table}.csv").write_bytes(frame_csv(frame))


if __name__ == "__main__":
    main()
