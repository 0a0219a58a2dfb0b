"""What runs of the adapter-paging benchmark say together: means with intervals, pairs, slopes, recovery."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from load_tests.paging.world import Numbers

_RESAMPLES = 2000
_SMOOTH_REQUESTS = 50
_RECOVERED = 0.02
"""Loss per request above the later level that counts as recovered."""

Row = dict[str, Any]


def summary(rows: Sequence[Row]) -> list[Row]:
    """Per case, policy and router: means, and differences to `hybrid` and `lru`, seed by seed."""
    groups: dict[tuple[str, str, str], dict[int, Row]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["policy"], row["router"]), {})[row["seed"]] = row
    found = []
    for (case, policy, router), mine in groups.items():
        line: Row = {"case": case, "policy": policy, "router": router, "seeds": len(mine)}
        for metric in ("regret_per_request", "regret_belady_per_request", "page_ins_per_1000"):
            values = np.array([row[metric] for row in mine.values()])
            line[metric] = float(values.mean())
            line[f"{metric}_ci95"] = interval(values)
        line["net_utility_per_request"] = float(
            np.mean([row["net_utility_per_request"] for row in mine.values()])
        )
        line["decision_p50_s"] = float(np.median([row["decision_p50_s"] for row in mine.values()]))
        for other in ("hybrid", "lru"):
            theirs = _own(groups, case, other)
            if theirs and other != policy:
                pairs = [
                    mine[seed]["regret_per_request"] - theirs[seed]["regret_per_request"]
                    for seed in mine
                    if seed in theirs
                ]
                line[f"regret_less_{other}"] = float(np.mean(pairs))
                line[f"regret_less_{other}_ci95"] = interval(np.array(pairs))
        found.append(line)
    return found


def _own(groups: Mapping[tuple[str, str, str], dict[int, Row]], case: str, policy: str) -> dict[int, Row]:
    """The runs to compare with: `hybrid` with its default router; `lru` as vLLM does it."""
    return groups.get((case, policy, "oblivious" if policy == "lru" else "amortised"), {})


def interval(values: Numbers) -> list[float]:
    """95 % bootstrap interval of the mean."""
    chance = np.random.default_rng(0)
    means = chance.choice(values, size=(_RESAMPLES, len(values))).mean(axis=1)
    return [float(bound) for bound in np.percentile(means, [2.5, 97.5])]


def slope(sizes: Sequence[float], totals: Sequence[float]) -> float | None:
    """Exponent of a power law through these points; None if a total is not positive."""
    if min(totals) <= 0:
        return None
    return float(np.polyfit(np.log(sizes), np.log(totals), 1)[0])


def slopes(rows: Sequence[Row], cumulated: Mapping[str, Numbers]) -> Row:
    """How regret grows with T, N and K.

    Args:
        rows: of all runs.
        cumulated: per policy, regret against the static oracle after every request, mean over seeds.
    """
    found: Row = {"in_requests": {}, "in_adapters": {}, "in_slots": {}}
    for policy, total in cumulated.items():
        ends = [len(total) // share for share in (8, 4, 2, 1)]
        found["in_requests"][policy] = slope(ends, [float(total[end - 1]) for end in ends])
    means: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        means.setdefault((row["case"], row["policy"]), []).append(row["regret_per_request"])
    for policy in sorted({policy for case, policy in means if case.startswith("slope_")}):
        for name, sizes, pattern in (
            ("in_adapters", (15, 30, 60), "slope_n{}_k4"),
            ("in_slots", (2, 4, 8), "slope_n30_k{}"),
        ):
            found_means = [means.get((pattern.format(size), policy)) for size in sizes]
            if all(found_means):
                found[name][policy] = slope(sizes, [float(np.mean(each or [])) for each in found_means])
    return found


def recovery_requests(loss: Numbers, shifts: Sequence[int]) -> float | None:
    """Requests after a shift until the loss is back at the level of the segment's second half.

    Args:
        loss: per request, against the best true utility, mean over seeds.
        shifts: where popularity changed.
    """
    if not shifts:
        return None
    smooth = np.convolve(loss, np.ones(_SMOOTH_REQUESTS) / _SMOOTH_REQUESTS, mode="valid")
    ends = [*shifts[1:], len(loss)]
    found = []
    for start, end in zip(shifts, ends, strict=True):
        level = loss[(start + end) // 2 : end].mean() + _RECOVERED
        back = np.flatnonzero(smooth[start : end - _SMOOTH_REQUESTS] <= level)
        found.append(float(back[0]) if len(back) else float(end - start))
    return float(np.mean(found))


def table(lines: Sequence[Row]) -> str:
    """For people."""
    head = f"{'case':26}{'policy':12}{'router':11}{'regret':>9} {'95 %':>19}{'Belady':>9}{'page-ins':>9}"
    out = [head + f"{'µs':>6}{'less hybrid':>13} {'95 %':>19}"]
    for line in lines:
        low, high = line["regret_per_request_ci95"]
        text = (
            f"{line['case']:26}{line['policy']:12}{line['router']:11}{line['regret_per_request']:9.4f} "
            f"{f'[{low:.4f}, {high:.4f}]':>19}{line['regret_belady_per_request']:9.4f}"
            f"{line['page_ins_per_1000']:9.0f}{line['decision_p50_s'] * 1e6:6.0f}"
        )
        if "regret_less_hybrid" in line:
            low, high = line["regret_less_hybrid_ci95"]
            text += f"{line['regret_less_hybrid']:13.4f} {f'[{low:.4f}, {high:.4f}]':>19}"
        out.append(text)
    return "\n".join(out)
