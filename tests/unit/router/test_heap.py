"""What lives when a router is ready is not walked again; what comes later is still collected."""

import gc
import weakref

import pytest

from deployments.router.heap import settle_heap


class Node:
    pass


@pytest.fixture(autouse=True)
def _restore():
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_old_objects_are_out_of_sight_and_new_cycles_are_still_found():
    old = Node()
    settle_heap()
    assert gc.get_freeze_count() > 10_000
    assert not any(found is old for found in gc.get_objects())
    node = Node()
    node.itself, gone = node, weakref.ref(node)
    del node
    gc.collect()
    assert gone() is None


def test_the_young_are_collected_on_their_own():
    settle_heap()
    gone = []
    for _ in range(20_000):
        node = Node()
        node.itself = node
        gone.append(weakref.ref(node))
    assert sum(ref() is None for ref in gone) > 5_000
