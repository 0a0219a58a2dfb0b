"""Guardrails: what may look at, change or refuse requests and answers. Off where none is named."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from cluster.config.base import Name, Section

BUILT_IN = ("pii", "prompt_injection")


class GuardrailConfig(Section):
    """One guardrail."""

    name: Name
    """What it is called in metrics and errors."""

    use: Annotated[str, StringConstraints(pattern=r"^[a-z_]+$|^[\w.]+:\w+$")]
    """`pii`, `prompt_injection`, or `package.module:factory` of your own (docs/tenants.md)."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for its factory."""

    timeout_s: float = Field(default=0.25, gt=0, le=60)
    """How long it may take over a request, and over a whole answer, for every 64 Ki characters begun."""

    on_failure: Literal["refuse", "allow"] = "refuse"
    """What becomes of a request if the guardrail fails or takes too long: 503, or it goes on unguarded."""


class GuardrailsConfig(Section):
    """The chain of guardrails, in the order in which they see a request; answers pass in the same order."""

    chain: tuple[GuardrailConfig, ...] = ()
    """Empty turns them off."""

    @model_validator(mode="after")
    def _known(self) -> "GuardrailsConfig":
        names = [entry.name for entry in self.chain]
        if len(set(names)) < len(names):
            raise ValueError(f"chain: names must differ: {', '.join(names)}")
        for entry in self.chain:
            if ":" not in entry.use and entry.use not in BUILT_IN:
                raise ValueError(
                    f"chain.{entry.name}.use: {entry.use!r} is not built in ({', '.join(BUILT_IN)}); "
                    "one of your own is named package.module:factory"
                )
        return self
