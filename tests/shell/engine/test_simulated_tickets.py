"""Tickets are kept for their lease, are bounded in number, and are given out once."""

from deployments.engine.simulated_tickets import TicketOffice


def office(**changes):
    return TicketOffice(**{"engine_id": "e", "tickets_max": 2, "lease_s": 30.0, **changes})


def test_a_ticket_is_redeemed_once_within_its_lease():
    kept = office()
    kept.issue("a", tokens=33, address=("127.0.0.1", 1), now_s=0.0)
    assert kept.tokens_held(29.0) == 33
    assert kept.redeem("a", now_s=29.0)
    assert not kept.redeem("a", now_s=29.0)


def test_a_ticket_ends_with_its_lease():
    kept = office()
    kept.issue("a", tokens=33, address=("127.0.0.1", 1), now_s=0.0)
    assert kept.tokens_held(30.0) == 0
    assert not kept.redeem("a", now_s=30.0)


def test_at_the_bound_the_oldest_is_given_up():
    kept = office()
    for name in "abc":
        kept.issue(name, tokens=1, address=("127.0.0.1", 1), now_s=0.0)
    assert [kept.redeem(name, now_s=1.0) for name in "abc"] == [False, True, True]


def test_the_params_are_those_of_vllms_connector():
    params = office().issue("a", tokens=33, address=("127.0.0.1", 7), now_s=0.0)
    assert params["remote_block_ids"] == [[0, 1, 2]]
    assert {"do_remote_prefill", "do_remote_decode", "remote_engine_id", "remote_request_id"} < params.keys()
    assert (params["remote_host"], params["remote_port"]) == ("127.0.0.1", 7)
