"""A part of the samples of ``make bench``: damaged inputs of every kind end in one line."""

from tests.bench_fuzz import fuzz

NUM_SAMPLES = 300


def test_damaged_inputs_are_used_or_refused_in_one_line_and_leave_no_part_of_a_file():
    counts, failed = fuzz(NUM_SAMPLES, seed=0)
    assert not failed, "\n".join(failed)
    assert counts["ok"] + counts["refused"] == NUM_SAMPLES
    # Neither all valid nor all damaged beyond reading.
    assert min(counts["ok"], counts["refused"]) > NUM_SAMPLES // 10
