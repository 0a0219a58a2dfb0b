"""Closed forms of the simulator against plain counting.

- Blocks of any number of steps equal the sum over sequences of whole blocks.
- `steps_that_fit` never exceeds the memory.
- The step boundary found for an instant is the first one not before it.
"""

import math

from hypothesis import given
from hypothesis import strategies as st

from cluster.simulation.kv_blocks import KvBlocks
from cluster.simulation.segment import Segment

contexts = st.lists(st.integers(1, 500), min_size=1, max_size=30)


def blocks_with(sequences, *, block_tokens, spare=0):
    used = sum(math.ceil(context / block_tokens) for context in sequences)
    kv = KvBlocks(tokens_max=(used + spare) * block_tokens, block_tokens=block_tokens)
    kv.used = used
    for context in sequences:
        kv.join(context)
    return kv


@given(contexts, st.sampled_from([1, 16, 128]), st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_growth_is_what_counting_every_sequence_gives(sequences, block_tokens, spans):
    kv = blocks_with(sequences, block_tokens=block_tokens)
    taken = 0
    for steps in spans:
        taken += steps
        kv.advance(steps)
        assert kv.used == sum(math.ceil((context + taken) / block_tokens) for context in sequences)
    for context in sequences:
        kv.leave(context + taken)
    assert kv.used == kv.decoding == 0


@given(contexts, st.sampled_from([16, 128]), st.integers(0, 200), st.integers(1, 2000))
def test_steps_that_fit_do_fit(sequences, block_tokens, spare, wanted):
    kv = blocks_with(sequences, block_tokens=block_tokens, spare=spare)
    steps = kv.steps_that_fit(wanted)
    assert 1 <= steps <= wanted
    if kv.growth(1) <= kv.free:
        assert kv.growth(steps) <= kv.free


@given(
    st.floats(0, 0.05),
    st.floats(0, 1e-3),
    st.integers(1, 5000),
    st.floats(0, 1),
)
def test_the_boundary_is_the_first_one_not_before_the_instant(step_s, slope_s, steps, part):
    segment = Segment()
    segment.start(100.0, step_s=step_s, slope_s=slope_s, steps=steps)
    at_s = 100.0 + part * segment.span_s(steps)
    found = segment.steps_to_reach(at_s)
    assert 1 <= found <= steps
    assert found == steps or segment.span_s(found) >= at_s - 100.0
    assert found == 1 or segment.span_s(found - 1) < at_s - 100.0
