"""Where adapters should lie: copies by load, pins everywhere, one home for what nobody asks for."""

import pytest

from cluster.policy.paging.placement import PlacedAdapter, PlacementNode, place


def node(name, slots=3, holds=(), base="m"):
    return PlacementNode(node=name, base_model=base, slots=slots, holds=frozenset(holds))


def adapter(key, load=0.0, *, pinned=False, base="m"):
    return PlacedAdapter(key=key, base_model=base, load_per_s=load, pinned=pinned)


def in_slots(placed, nodes):
    return {n.node: set(placed[n.node][: n.slots]) for n in nodes}


def test_copies_go_with_load():
    nodes = [node(f"n{number}") for number in range(4)]
    cold = [adapter(f"c{number}", 5.5) for number in range(5)]
    placed = place(nodes, [adapter("hot", 60.0), adapter("warm", 20.0), *cold])
    copies = {key: sum(key in keys for keys in placed.values()) for key in ("hot", "warm", "c0", "c4")}
    assert copies["hot"] == 4
    assert copies["warm"] == 3
    assert copies["c0"] == copies["c4"] == 1
    assert all(len(keys) <= 3 for keys in placed.values())


def test_everything_asked_for_is_somewhere_while_there_is_room():
    nodes = [node("a", 4), node("b", 4)]
    wanted = {f"k{number}": 1.0 + number for number in range(8)}
    placed = place(nodes, [adapter(key, load) for key, load in wanted.items()])
    assert {key for keys in placed.values() for key in keys} == set(wanted)


def test_small_changes_of_load_move_nothing_and_large_ones_do():
    nodes = [node("a", 1), node("b", 1)]
    first = place(nodes, [adapter("x", 1.1), adapter("y", 1.0)])
    held = [node(n.node, 1, holds=first[n.node]) for n in nodes]
    assert place(held, [adapter("x", 1.0), adapter("y", 1.1)]) == first
    third = [adapter("x", 1.0), adapter("y", 1.0), adapter("z", 1.4)]
    assert in_slots(place(held, third), nodes) == in_slots(first, nodes)
    third[2] = adapter("z", 1.6)
    assert any("z" in keys for keys in in_slots(place(held, third), nodes).values())


def test_pins_come_first_on_every_node_and_use_slots():
    nodes = [node("a", 2), node("b", 2)]
    placed = place(nodes, [adapter("p", pinned=True), adapter("x", 5.0), adapter("y", 4.0)])
    assert all(keys[0] == "p" for keys in placed.values())
    assert all(len(keys) == 2 for keys in placed.values())


def test_what_nobody_asks_for_has_one_home_that_stays_when_others_leave():
    nodes = [node(name) for name in "abcd"]
    cold = [adapter(f"k{number}") for number in range(100)]
    placed = place(nodes, cold)
    homes = {key: name for name, keys in placed.items() for key in keys}
    assert len(homes) == 100
    assert sum(map(len, placed.values())) == 100
    assert all(len(keys) > 10 for keys in placed.values())
    after = place(nodes[:3], cold)
    assert all(key in after[home] for key, home in homes.items() if home != "d")


def test_bases_do_not_mix():
    placed = place([node("a"), node("b", base="n")], [adapter("x", 1.0), adapter("y", 1.0, base="n")])
    assert placed == {"a": ("x",), "b": ("y",)}


@pytest.mark.parametrize("nodes", [[], [node("a", 0)]])
def test_no_room_is_no_error(nodes):
    placed = place(nodes, [adapter("x", 1.0), adapter("y")])
    assert set(placed) == {n.node for n in nodes}
