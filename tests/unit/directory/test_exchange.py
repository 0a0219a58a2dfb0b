"""Routers hear of all others, once, and of nobody who has gone silent."""

from cluster.entities.pool import ReplicaId
from deployments.directory import exchange
from deployments.directory.exchange import RouterExchange
from deployments.messages import ReplicaLoad, RouterShare

A, B = ReplicaId("a"), ReplicaId("b")


def load(requests, tokens=0):
    return ReplicaLoad(requests=requests, pending_prefill_tokens=tokens)


def test_a_router_hears_the_sum_of_the_others():
    routers = RouterExchange()
    routers.swap("x", RouterShare(loads={A: load(1, 100), B: load(2)}), now_s=0.0)
    routers.swap("y", RouterShare(loads={A: load(4, 50)}), now_s=0.1)
    assert routers.swap("z", RouterShare(), now_s=0.2).loads == {A: load(5, 150), B: load(2)}
    assert routers.swap("x", RouterShare(), now_s=0.3).loads == {A: load(4, 50)}
    assert routers.swap("y", RouterShare(), now_s=0.4).loads == {}


def test_everybody_else_hears_once_what_was_computed():
    routers = RouterExchange()
    for name in "xyz":
        routers.swap(name, RouterShare(), now_s=0.0)
    routers.swap("x", RouterShare(computed=((A, (1, 2)),)), now_s=0.1)
    routers.swap("y", RouterShare(computed=((B, (3,)),)), now_s=0.2)
    assert routers.swap("z", RouterShare(), now_s=0.3).computed == ((A, (1, 2)), (B, (3,)))
    assert routers.swap("z", RouterShare(), now_s=0.4).computed == ()
    assert routers.swap("x", RouterShare(), now_s=0.5).computed == ((B, (3,)),)


def test_the_silent_and_those_who_said_goodbye_count_no_more():
    routers = RouterExchange()
    routers.swap("x", RouterShare(loads={A: load(1)}), now_s=0.0)
    routers.swap("y", RouterShare(loads={A: load(2)}), now_s=4.0)
    assert routers.swap("z", RouterShare(), now_s=5.1).loads == {A: load(2)}
    routers.forget("y")
    assert routers.swap("z", RouterShare(), now_s=5.2).loads == {}


def test_what_nobody_fetches_is_bounded(monkeypatch):
    routers = RouterExchange()
    routers.swap("x", RouterShare(), now_s=0.0)
    routers.swap("y", RouterShare(computed=tuple((A, (n,)) for n in range(5000))), now_s=0.1)
    computed = routers.swap("x", RouterShare(), now_s=0.2).computed
    assert len(computed) == exchange.INBOX_MAX
    assert computed[-1] == (A, (4999,))
    monkeypatch.setattr(exchange, "ROUTERS_MAX", 2)
    assert routers.swap("z", RouterShare(loads={A: load(9)}), now_s=0.3) == RouterShare()
    assert routers.swap("x", RouterShare(), now_s=0.4).loads == {}
