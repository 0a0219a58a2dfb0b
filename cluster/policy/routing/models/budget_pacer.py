"""Keeps means per request within budgets of money and energy, by prices that every score pays.

The problem is a linear program: the most quality whose cost stays within the budget. Its dual has one
variable per budget, the price, and is solved on the latest requests instead of being stepped along one noisy
cost at a time (as in ParetoBandit's pacer, arXiv 2604.00136, whose price swings past the useful models when
costs differ by orders of magnitude, so that a single cheaper model beats the mixture). What was spent
differently from the plan is given back over a horizon, and a model that costs more than the budget and its
savings is not affordable at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.config.model_routing import BudgetConfig, BudgetsConfig
from cluster.entities.model_routing import ModelOutcome
from cluster.policy.routing.models.state_json import entry
from cluster.policy.routing.models.usage import Needs

Numbers = NDArray[np.float64]
Tendency = Callable[[Numbers], Numbers]

EVERYBODY = ""
"""Account of all tenants together."""

_WINDOW = 256
_REQUESTS_PER_SOLUTION = 8
_BISECTIONS = 24
_PRICE_SPAN = (1e-4, 1e5)
"""Quality per mean cost between which a price is searched."""
_DEBT_HORIZONS_MAX = 10.0
"""Debts beyond are forgiven, so that one bad day does not starve a week."""
_SAVINGS_REQUESTS_MAX = 40.0
"""So many requests' budgets may be saved up, enough for one answer of a model that costs so much; what is not
spent beyond is lost, so that a quiet hour does not pay for an expensive one."""
_SAVINGS_HORIZON_SHARE = 0.1
"""Savings are spent sooner than debts are paid. Quality is concave in what may be spent: a little more buys a
little more, but a little less may mean the model that nobody would choose freely. A debt that is paid slowly
is often paid by what the best affordable model leaves of the budget anyway."""
_CREDIT_REQUESTS = 5.0
"""So many requests' budgets may be owed; without any credit something would always stay unspent."""
_EXPLORATION_BUDGET_SHARE = 0.05
_TRIAL_BUDGET_SHARE = 0.2
_UNPRICED_ASKS_MAX = 4
"""So often a model whose price nobody knows is asked before the first answer has told it: where answers come
late, many of the dearest could be on their way."""
_ABSENT_AFTER = 32
"""A model that so many requests in a row could not be given is gone, and nothing can be planned with it."""
_UNKNOWN = -1.0
"""Share of a model's usual cost on a request from before the model was known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Quality that a unit must buy."""

    usd: float = 0.0
    j: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PacedRow:
    """What the known models would have scored and taken on one request."""

    models: tuple[str, ...]
    scores: Numbers
    cost_usd: Numbers
    energy_j: Numbers
    usual_usd: Numbers
    """What their answers cost on the mean, as far as is known now."""
    usual_j: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One payer."""

    requests: int = 0
    saved_usd: float = 0.0
    """Unspent, or overspent if negative."""
    saved_j: float = 0.0
    prices: Prices = Prices()


@dataclass(frozen=True, slots=True, kw_only=True)
class PacerState:
    """The latest requests, and the accounts; the one that was silent longest stands first."""

    models: tuple[str, ...] = ()
    window: Numbers = field(default_factory=lambda: np.zeros((3, 0, 0)))
    """Scores, and money and energy as shares of what was usual for the model, each by request and model. What
    is usual now is put in when prices are set, so that the whole window follows a changed price at once."""
    absent: Mapping[str, int] = field(default_factory=dict)
    """Of the models that the latest request could not be given: how many in a row could not."""
    accounts: Mapping[str, Account] = field(default_factory=dict)


class BudgetPacer:
    """Prices for everybody together and for each tenant; the higher one of each resource counts."""

    def __init__(self, config: BudgetsConfig) -> None:
        self._config = config
        self._everybody = BudgetConfig(
            usd_per_request=config.usd_per_request, j_per_request=config.j_per_request
        )

    @property
    def active(self) -> bool:
        """Whether there is any budget."""
        return self._config.any_set

    def initial(self) -> PacerState:
        """Nothing spent."""
        return PacerState()

    def prices(self, state: PacerState, tenant: str) -> Prices:
        """What a request of this tenant pays."""
        paying = [state.accounts.get(payer, Account()).prices for payer in (EVERYBODY, tenant)]
        return Prices(usd=max(price.usd for price in paying), j=max(price.j for price in paying))

    def affordable(self, state: PacerState, tenant: str, need: Needs) -> NDArray[np.bool_]:
        """Which candidates cost no more than budget and savings; the cheapest always.

        A model that usually costs less than the budget is affordable on every request: its dearer answers are
        what its cheaper ones save for.
        """
        fits = np.ones(len(need.cost_usd), dtype=bool)
        for payer, budget in self._budgets(tenant):
            account = state.accounts.get(payer, Account())
            for limit, saved, cost, usual in (
                (budget.usd_per_request, account.saved_usd, need.cost_usd, need.usual_usd),
                (budget.j_per_request, account.saved_j, need.energy_j, need.usual_j),
            ):
                if limit is not None:
                    allowed = limit + max(saved + _CREDIT_REQUESTS * limit, 0.0)
                    fits &= (usual <= limit) | (cost <= max(allowed, float(cost.min())))
                    fits &= (usual > 0) | (need.unheard_asks < _UNPRICED_ASKS_MAX)
        if not fits.any():  # what is cheapest in money is too dear in energy
            fits[int(np.argmin(need.cost_usd))] = True
        return fits

    def uniform_share(self, share: float, tenant: str, need: Needs, affordable: NDArray[np.bool_]) -> float:
        """The share of requests for exploration that a small part of the budgets pays for."""
        for _, budget in self._budgets(tenant):
            for limit, cost in (
                (budget.usd_per_request, need.cost_usd),
                (budget.j_per_request, need.energy_j),
            ):
                mean = float(cost[affordable].mean())
                if limit is not None and mean > 0:
                    share = min(share, _EXPLORATION_BUDGET_SHARE * limit / mean)
        return share

    def trial_shares(
        self, share: float, state: PacerState, tenant: str, *, need: Needs, untried: NDArray[np.bool_]
    ) -> Numbers:
        """Of the share for trials, what each model about which little is known gets.

        An equal part where savings pay for an answer, else no more than a share of the budget pays for.
        """
        parts = np.where(untried, share / max(int(untried.sum()), 1), 0.0)
        for payer, budget in self._budgets(tenant):
            account = state.accounts.get(payer, Account())
            for limit, saved, cost in (
                (budget.usd_per_request, account.saved_usd, need.cost_usd),
                (budget.j_per_request, account.saved_j, need.energy_j),
            ):
                if limit is not None:
                    short = untried & (cost > limit + max(saved, 0.0))
                    parts[short] = np.minimum(parts[short], _TRIAL_BUDGET_SHARE * limit / cost[short])
        return parts

    def learn(
        self, state: PacerState, outcome: ModelOutcome, row: PacedRow, tendency: Tendency
    ) -> PacerState:
        """Book what an answer took and, now and then, set the prices anew."""
        window = _with_row(state, row)
        absent = _absent(state.absent, row.models, outcome.offered)
        planned = _as_now(window, row)[:, :, _present(row.models, absent)]
        accounts = dict(state.accounts)
        for payer, budget in self._budgets(outcome.signals.tenant):
            account = self._booked(accounts.pop(payer, Account()), budget, outcome)
            if account.requests % _REQUESTS_PER_SOLUTION == 0:
                prices = _solved(account, budget, planned=planned, tendency=tendency, config=self._config)
                account = replace(account, prices=prices)
            accounts[payer] = account
        while len(accounts) > self._config.tenants_max + 1:
            del accounts[next(payer for payer in accounts if payer != EVERYBODY)]
        return PacerState(models=row.models, window=window, absent=absent, accounts=accounts)

    def fields(self, state: PacerState) -> dict[str, Any]:
        """For the disk."""
        return {
            "models": list(state.models),
            "window": state.window,
            "absent": dict(state.absent),
            "accounts": [
                [payer, found.requests, found.saved_usd, found.saved_j, found.prices.usd, found.prices.j]
                for payer, found in state.accounts.items()
            ],
        }

    def from_fields(self, fields: Mapping[str, Any]) -> PacerState:
        """Read `fields`.

        Raises:
            ValueError: it is not of this shape.
        """
        models = tuple(entry(fields, "models", list))
        window = fields.get("window")
        if not isinstance(window, np.ndarray) or window.ndim != 3 or window.shape[::2] != (3, len(models)):
            raise ValueError("state: the pacer's window should hold three values for each request and model")
        try:
            accounts = {
                str(payer): Account(
                    requests=int(requests),
                    saved_usd=float(saved_usd),
                    saved_j=float(saved_j),
                    prices=Prices(usd=float(usd), j=float(j)),
                )
                for payer, requests, saved_usd, saved_j, usd, j in entry(fields, "accounts", list)
            }
            # a state from before models were missed says nothing of it
            absent = {str(model): int(count) for model, count in fields.get("absent", {}).items()}
        except (AttributeError, TypeError) as error:
            raise ValueError("state: an account of the pacer, or what it misses, is damaged") from error
        return PacerState(models=models, window=window, absent=absent, accounts=accounts)

    def _budgets(self, tenant: str) -> tuple[tuple[str, BudgetConfig], ...]:
        own = self._config.tenants.get(tenant, self._config.per_tenant)
        payers = ((EVERYBODY, self._everybody), (tenant, own))
        return tuple((payer, budget) for payer, budget in payers if budget.is_set)

    def _booked(self, account: Account, budget: BudgetConfig, outcome: ModelOutcome) -> Account:
        horizon = self._config.horizon_requests
        return Account(
            requests=account.requests + 1,
            saved_usd=_saved(account.saved_usd, budget.usd_per_request, outcome.cost_usd, horizon),
            saved_j=_saved(account.saved_j, budget.j_per_request, outcome.energy_j, horizon),
            prices=account.prices,
        )


def _saved(saved: float, limit: float | None, spent: float, horizon: int) -> float:
    """Savings after one more request; neither they nor debts grow without end."""
    if limit is None:
        return 0.0
    saved = max(saved + limit - spent, -_DEBT_HORIZONS_MAX * horizon * limit)
    return min(saved, _SAVINGS_REQUESTS_MAX * limit)


def _with_row(state: PacerState, row: PacedRow) -> Numbers:
    """The window with one more request, over the models that are known now."""
    kept = state.window[:, -_WINDOW + 1 :, :]
    if state.models != row.models:
        moved = np.full((3, kept.shape[1], len(row.models)), _UNKNOWN)
        for index, model in enumerate(row.models):
            if model in state.models:
                moved[:, :, index] = kept[:, :, state.models.index(model)]
        kept = moved
    shares = (_share(row.cost_usd, row.usual_usd), _share(row.energy_j, row.usual_j))
    return np.concatenate([kept, np.stack([row.scores, *shares])[:, None, :]], axis=1)


def _absent(absent: Mapping[str, int], models: tuple[str, ...], offered: tuple[str, ...]) -> dict[str, int]:
    """For how many requests in a row each model has not been on offer; a request may not say what was."""
    if not offered:
        return dict(absent)
    return {model: absent.get(model, 0) + 1 for model in models if model not in offered}


def _present(models: tuple[str, ...], absent: Mapping[str, int]) -> NDArray[np.intp]:
    """Columns of the models that can be planned with."""
    present = [at for at, model in enumerate(models) if absent.get(model, 0) < _ABSENT_AFTER]
    return np.array(present or range(len(models)), dtype=np.intp)


def _share(took: Numbers, usual: Numbers) -> Numbers:
    return np.divide(took, usual, out=np.ones_like(took), where=usual > 0)


def _solved(
    account: Account,
    budget: BudgetConfig,
    *,
    planned: Numbers,
    tendency: Tendency,
    config: BudgetsConfig,
) -> Prices:
    """The prices at which the window would have cost what may be spent now; one price after the other."""
    scores, usd, j = planned
    prices = account.prices
    if budget.usd_per_request is not None:
        may_spend = budget.usd_per_request + _beyond(account.saved_usd, config.horizon_requests)
        prices = replace(prices, usd=_price(scores - prices.j * j, usd, may_spend, tendency))
    if budget.j_per_request is not None:
        may_spend = budget.j_per_request + _beyond(account.saved_j, config.horizon_requests)
        prices = replace(prices, j=_price(scores - prices.usd * usd, j, may_spend, tendency))
    return prices


def _beyond(saved: float, horizon: int) -> float:
    """What the next request may cost beyond the budget; less than nothing where something is owed."""
    return saved / (horizon if saved < 0 else _SAVINGS_HORIZON_SHARE * horizon)


def _as_now(window: Numbers, row: PacedRow) -> Numbers:
    """The window at today's prices; a model counts as usual on requests from before it was known."""
    known = window[1] != _UNKNOWN
    scores, usd, j = window
    counts = known.sum(axis=0)
    usual = np.where(known, scores, 0.0).sum(axis=0) / counts
    scores = np.where(known, scores, usual)
    return np.stack(
        [scores, np.where(known, usd, 1.0) * row.usual_usd, np.where(known, j, 1.0) * row.usual_j]
    )


def _price(scores: Numbers, costs: Numbers, may_spend: float, tendency: Tendency) -> float:
    """The lowest price at which the mean cost stays within what may be spent."""

    def mean_cost(price: float) -> float:
        return float((tendency(scores - price * costs) * costs).sum(axis=1).mean())

    scale = float(costs.mean())
    if scale <= 0 or mean_cost(0.0) <= may_spend:
        return 0.0
    low, high = (span / scale for span in _PRICE_SPAN)
    if mean_cost(high) > may_spend:
        return high  # even the cheapest models cost more
    for _ in range(_BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if mean_cost(middle) <= may_spend else (middle, high)
    return high
