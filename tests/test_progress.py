from hypothesis import given
from hypothesis import strategies as st

from lazsim.engine.progress import Lost, Made, Progress

moves = st.one_of(
    # Steps made: their number, seconds and samples, after a pause.
    st.tuples(st.just("train"), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2)),
    # A save that takes this long to be written.
    st.tuples(st.just("save"), st.integers(0, 3)),
    # A rollback to the last save, or to a copy of this part of the steps made since.
    st.tuples(st.just("roll back"), st.integers(0, 4)),
)


@given(st.lists(moves, max_size=12))
def test_a_rollback_loses_the_steps_since_what_counts_and_their_seconds_and_samples(moves):
    # The steps that count, one by one: when each began, its seconds and samples.
    steps, now_s, progress = [], 0, Progress()
    # Steps that the last save holds.
    saved = 0
    for kind, *numbers in moves:
        if kind == "train":
            num_steps, step_s, samples, pause_s = numbers
            now_s += pause_s
            progress.add(Made(now_s, num_steps, step_s, samples))
            steps += [(now_s + number * step_s, step_s, samples) for number in range(num_steps)]
            now_s += num_steps * step_s
        elif kind == "save":
            progress.save(now_s, persist_s=numbers[0])
            saved = len(steps)
            # The next save waits until this one is written.
            now_s += numbers[0]
        else:
            copy = saved + (len(steps) - saved) * numbers[0] // 4
            left = copy if saved < copy else saved
            since_s = steps[left][0] if left < len(steps) else now_s
            gone, steps = steps[left:], steps[:left]
            lost = progress.roll_back(now_s, copied_step=copy)
            assert lost == Lost(len(gone), sum(step_s for _, step_s, _ in gone), since_s)
            assert progress.copied_step(1000) == (left if left > saved else 0)
        assert (progress.step, progress.samples) == (len(steps), sum(samples for *_, samples in steps))
        assert progress.saved_step == saved
