"""The gateways that Tidemill is compared with, started before the same engines.

Each runs as its makers say it is run in production, in one process: what does not bear on a request's way
(telemetry, price lists from the network, logs) is off.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

VENVS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidemill" / "peers"
_INSTALL_TIMEOUT_S = 900


class PeerError(RuntimeError):
    """A gateway could not be installed or started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What is started."""

    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    api_key: str | None = None
    """What its callers have to show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One gateway."""

    name: str
    package: str
    """Pinned, as pip takes it."""
    program: str
    """In the virtual environment's `bin`."""
    start: Callable[[Path, Sequence[str], str, int, Path], Start]
    """From program, engines, model, port and a folder for its files."""

    @property
    def venv(self) -> Path:
        """Where it is installed; the pin is in the name, so another one is installed anew."""
        return VENVS / "".join(c if c.isalnum() or c in ".-" else "-" for c in self.package)

    @property
    def program_path(self) -> Path:
        """Its program, there if it is installed."""
        return self.venv / "bin" / self.program

    def install(self) -> None:
        """Make its virtual environment; nothing is done if it is there.

        Raises:
            PeerError: pip failed.
        """
        if self.program_path.exists():
            return
        print(f"installing {self.package} into {self.venv}", file=sys.stderr)
        steps = (
            [sys.executable, "-m", "venv", "--clear", str(self.venv)],
            [str(self.venv / "bin" / "pip"), "install", "--quiet", self.package],
        )
        for step in steps:
            try:
                subprocess.run(step, check=True, stdout=sys.stderr, timeout=_INSTALL_TIMEOUT_S)  # noqa: S603
            except (OSError, subprocess.SubprocessError) as error:
                raise PeerError(f"{self.package} could not be installed: {error}") from error
        if not self.program_path.exists():
            raise PeerError(f"{self.package} brought no {self.program}")

    def prepared(self, engines: Sequence[str], *, model: str, port: int, folder: Path) -> Start:
        """What to start before these engines.

        Args:
            engines: base URLs without `/v1`.
            model: their model.
            port: where it is to listen, on 127.0.0.1.
            folder: for files of its own.
        """
        return self.start(self.program_path, engines, model, port, folder)


def _vllm_router(program: Path, engines: Sequence[str], model: str, port: int, folder: Path) -> Start:
    del model, folder
    listening = ("--host", "127.0.0.1", "--port", str(port), "--log-level", "error")
    return Start(
        command=(str(program), *listening, "--policy", "cache_aware", "--worker-urls", *engines),
    )


def _litellm(program: Path, engines: Sequence[str], model: str, port: int, folder: Path) -> Start:
    def entry(engine: str) -> dict[str, object]:
        parameters = {"model": f"openai/{model}", "api_base": f"{engine}/v1", "api_key": "none"}
        return {"model_name": model, "litellm_params": parameters}

    key = f"sk-{secrets.token_urlsafe(24)}"  # it refuses to start without one
    settings = {"drop_params": False, "telemetry": False, "set_verbose": False}
    content = {"model_list": [entry(engine) for engine in engines], "litellm_settings": settings}
    path = folder / "litellm.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return Start(
        command=(
            str(program),
            *("--config", str(path), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"),
        ),
        environment={
            "LITELLM_MASTER_KEY": key,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_TELEMETRY": "False",
            "LITELLM_LOG": "ERROR",
            "NO_PROXY": "127.0.0.1",
        },
        api_key=key,
    )


GATEWAYS = (
    Gateway(name="vllm-router", package="vllm-router==0.1.17", program="vllm-router", start=_vllm_router),
    Gateway(name="litellm", package="litellm[proxy]==1.108.7", program="litellm", start=_litellm),
)
