"""What every configuration section shares."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
"""A name that is also a valid Kubernetes label and Serve application name."""

_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"

LabelKey = Annotated[str, StringConstraints(pattern=rf"^([a-z0-9.-]{{1,253}}/)?{_LABEL}$")]
"""Key of a node's label: as in Kubernetes, with or without a domain in front."""

LabelValue = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}$")]
"""Value of a node's label."""

LabelSelector = Annotated[str, StringConstraints(pattern=rf"^!?{_LABEL}$|^!?in\({_LABEL}(, ?{_LABEL})*\)$")]
"""What a label's value must be, as Ray writes it: `a`, `!a`, `in(a, b)`, `!in(a, b)`."""

HostName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""A DNS name of several labels."""


class Section(BaseModel):
    """A frozen part of the configuration that rejects fields it does not know.

    Infinity and NaN have no form in JSON, in which the configuration travels to the cluster.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
