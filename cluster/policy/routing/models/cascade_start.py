"""The first model of a cascade: the cheapest of the plan that promises most, now and then another one.

Without the share that is drawn, nothing would ever be learnt of models that no plan contains, and logs could
not tell how another policy would have done.
"""

from collections.abc import Sequence

import numpy as np

from cluster.config.model_routing import ModelRoutingConfig
from cluster.entities.model_routing import ModelChoice
from cluster.entities.reasons import Reason
from cluster.policy.routing.models.cascade import CascadeOption, next_step
from cluster.policy.routing.models.chance import check_draw, drawn, with_uniform_share


def first_model(
    options: Sequence[CascadeOption],
    config: ModelRoutingConfig,
    *,
    policy: str,
    ttft_slo_s: float,
    draw: float,
) -> ModelChoice:
    """The model that a cascade begins with.

    Args:
        options: models with what is expected of them.
        config: of model routing.
        policy: name of the policy whose expectations these are.
        ttft_slo_s: by when the first token is promised.
        draw: a number in [0, 1).

    Raises:
        ValueError: the draw lies outside [0, 1).
    """
    check_draw(draw)
    name = f"{policy}+cascade"
    step = next_step((), options, config.cascade, elapsed_s=0.0, ttft_slo_s=ttft_slo_s)
    if step.model is None:
        return ModelChoice(model=None, policy=name, reasons=step.reasons)
    usable = [option for option in options if option.usable]
    planned = np.array([float(option.model == step.model) for option in usable])
    chances = with_uniform_share(planned, config.exploration_share)
    index = drawn(chances, draw)
    return ModelChoice(
        model=usable[index].model,
        policy=name,
        scores={option.model: option.quality for option in usable},
        propensities={option.model: float(chance) for option, chance in zip(usable, chances, strict=True)},
        reasons=step.reasons if usable[index].model == step.model else (Reason.EXPLORED,),
    )
