"""The closed vocabulary in which decisions give their reasons (log fields and metric labels)."""

from enum import StrEnum


class Reason(StrEnum):
    """Why something was decided."""

    # path
    PROMPT_LONG = "prompt_long"
    PROMPT_SHORT = "prompt_short"
    PROMPT_CACHED_AT_DECODE = "prompt_cached_at_decode"
    NO_PREFILL_REPLICA = "no_prefill_replica"
    PREFILL_BUSY = "prefill_busy"
    PREFILL_SLOWER = "prefill_slower"
    NOT_SPLITTABLE = "not_splittable"
    DISAGGREGATION_OFF = "disaggregation_off"
    NO_TOKENS_WANTED = "no_tokens_wanted"
    # what happened to a disaggregated request
    PREFILL_FAILED = "prefill_failed"
    PREFILL_TIMED_OUT = "prefill_timed_out"
    TICKET_MISSING = "ticket_missing"
    # replica
    LEAST_WORK = "least_work"
    TIE_BROKEN_BY_CHANCE = "tie_broken_by_chance"
    ONLY_CANDIDATE = "only_candidate"
    PREFIX_CACHED = "prefix_cached"
    NO_REPLICA = "no_replica"
    ALL_FULL = "all_full"
    ALL_PUT_ASIDE = "all_put_aside"
    LAST_RESORT = "last_resort"
    REPLICA_FAILED = "replica_failed"
    RETRIED = "retried"
    # admission
    ADMITTED = "admitted"
    QUEUED = "queued"
    QUEUE_FULL = "queue_full"
    TOO_LATE = "too_late"
    QUEUE_TIMED_OUT = "queue_timed_out"
    # semantic cache
    CACHE_HIT = "cache_hit"
    CACHE_MISS = "cache_miss"
    CACHE_BYPASS = "cache_bypass"
    CACHE_UNAVAILABLE = "cache_unavailable"
    # end
    CLIENT_LEFT = "client_left"
    # provisioning
    DEMAND_RISING = "demand_rising"
    DEMAND_FALLING = "demand_falling"
    BACKLOG = "backlog"
    CHEAPER_POOL = "cheaper_pool"
    AT_MINIMUM = "at_minimum"
    AT_MAXIMUM = "at_maximum"
    SPARE = "spare"
    POWER_CAP = "power_cap"
    SLO_NOT_MET = "slo_not_met"
    UNPLACEABLE = "unplaceable"
    HELD_BY_STABILISATION = "held_by_stabilisation"
    HELD_BY_COOL_DOWN = "held_by_cool_down"
    HELD_UNTIL_REPLACED = "held_until_replaced"
    HELD_BY_BREAK_EVEN = "held_by_break_even"
    STEP_BOUNDED = "step_bounded"
    STALE_OBSERVATION = "stale_observation"
    UNCHANGED = "unchanged"
    NO_DEMAND = "no_demand"
