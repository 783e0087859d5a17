"""A small sample of the mutations that ``python tests/mutations.py`` makes in full."""

from mutations import HERE, collect_readers, find_faults


def test_no_reader_ends_in_a_traceback_or_hangs() -> None:
    readers = collect_readers((HERE / "samples",))
    assert len(readers) > 8
    for name, (read, samples) in readers.items():
        small = sorted(samples, key=lambda sample: len(sample.content))[:3]
        assert not list(find_faults(read, small, count=4, seed=1)), name
