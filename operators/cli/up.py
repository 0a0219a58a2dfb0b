"""`tidemill up`: from a configuration file to a served model, in the foreground, and back to nothing."""

import contextlib
import dataclasses
import os
import time
import traceback
from pathlib import Path

from cluster.config import ConfigError, TidemillConfig, load_config
from deployments.adapter_pager.sources import RECIPE_PREFIX
from deployments.engine.adapter_making import made_adapters
from deployments.engine.weights import WeightsError, default_cache_dir, resolve_weights
from operators.cli.console import CliError, Reporter, reporter_for
from operators.cli.deployment import Watch, deploy_applications, gateway_base_url, probe
from operators.cli.keys import note_without_keys
from operators.cli.state import (
    ClusterState,
    load_state,
    only_one,
    own_state,
    provide_admin_key,
    remove_state,
    save_state,
    state_dir_of,
)
from operators.cli.stop_signals import StopRequested, StopSignals, stop_with_parent
from operators.local_cluster.cluster import LocalCluster, LocalClusterError, runtime_dir_of
from operators.local_cluster.environment import LOCAL_NOTICE_S, gateway_environment
from operators.local_cluster.failures import last_errors
from operators.local_cluster.preflight import observe_facts, problems, wanted_ports
from operators.prometheus.targets import TargetsFile
from operators.provisioner.pool_check import check_pools

_WATCH_S = 0.5


def up(config_path: Path, *, json_output: bool, follow_parent: bool) -> int:
    """Run a cluster until it is told to stop.

    Returns:
        The exit status: 0 after an orderly stop, 1 after a failure, 2 for an unusable configuration.
    """
    reporter = reporter_for(json_events=json_output)
    try:
        config = load_config(config_path)
        check_pools(config, origin=str(config_path))
    except ConfigError as error:
        first, *rest = str(error).splitlines()
        reporter.error(first, tuple(line.strip() for line in rest))
        return 2
    state_dir = state_dir_of(os.environ)
    with StopSignals() as signals:
        run = _Run(config, config_path, state_dir, reporter, signals)
        try:
            if follow_parent:
                stop_with_parent()
            with only_one(state_dir):
                return run.to_the_end()
        except StopRequested:
            return 0  # before anything was started
        except CliError as error:
            reporter.error(str(error), error.details)
            return error.exit_code


class _Run:
    """One life of a cluster."""

    def __init__(
        self,
        config: TidemillConfig,
        config_path: Path,
        state_dir: Path,
        reporter: Reporter,
        signals: StopSignals,
    ) -> None:
        self._config = config
        self._config_path = config_path
        self._state_dir = state_dir
        self._reporter = reporter
        self._signals = signals
        self._cluster: LocalCluster | None = None
        self._state: ClusterState | None = None
        self._admin_key = ""
        self._base_url = gateway_base_url(config)

    def to_the_end(self) -> int:
        """Start, serve, stop; whatever happens, nothing is left."""
        status = 1
        try:
            self._start()
            self._serve()
        except StopRequested:
            status = 0
        except (CliError, LocalClusterError, WeightsError) as error:
            self._reporter.error(str(error), getattr(error, "details", ()))
        except Exception as error:  # noqa: BLE001 - the last line of defence; the trace goes to a file
            log = self._state_dir / "up.log"
            log.write_text(traceback.format_exc(), encoding="utf-8")
            self._reporter.error(f"unexpected {type(error).__name__}: {error} (details in {log})")
        return self._stop(status)

    def _start(self) -> None:
        self._preflight()
        key, key_path = provide_admin_key(self._state_dir, self._config.gateway.admin_key_env, os.environ)
        self._admin_key = key
        self._save(key_path)  # before what takes minutes: `tidemill down` must find us
        weights = self._weights()
        self._train_adapters()
        deadline_at_s = time.monotonic() + self._config.local_cluster.start_timeout_s
        serve = gateway_environment(self._config.gateway.request_timeout_s, notice_s=LOCAL_NOTICE_S)
        env = {**serve, **os.environ}
        cluster = LocalCluster(self._config.local_cluster, state_dir=self._state_dir, env=env)
        self._cluster = cluster
        with self._reporter.step("starting Ray"):
            cluster.start()
        self._note_state(cluster=cluster.handle)
        watch = Watch(cluster=cluster, deadline_at_s=deadline_at_s)
        self._deploy(watch, weights, key)
        own_key = key if self._config.tenants.enabled else None
        for model in self._config.models:
            with self._reporter.step(f"waiting for the first answer of {model}"):
                probe(model, base_url=self._base_url, watch=watch, progress=self._reporter.note, key=own_key)
        note = note_without_keys(self._config, self._state_dir)
        if note is not None:
            self._reporter.note(note)

    def _deploy(self, watch: Watch, weights: dict[str, str], key: str) -> None:
        try:
            with self._reporter.step("deploying the applications (engines load their models)"):
                deploy_applications(
                    self._config,
                    watch=watch,
                    state_dir=self._state_dir,
                    weights=weights,
                    admin_key=key,
                    progress=self._reporter.note,
                )
        except CliError as error:
            runtime_dir = runtime_dir_of(self._state_dir)
            details = tuple(last_errors(runtime_dir))
            logs = f"logs: {self._state_dir / 'deploy.log'}, {runtime_dir}/ray/session_latest/logs"
            raise CliError(str(error), details=(*details, logs)) from error

    def _preflight(self) -> None:
        state = load_state(self._state_dir)
        facts = observe_facts(
            self._config,
            state_dir=self._state_dir,
            folders=[default_cache_dir(os.environ)],
            running_pid=state.running_pid if state else None,
        )
        found = problems(self._config, facts)
        if found:
            first, *rest = found
            raise CliError(first, details=tuple(rest))

    def _weights(self) -> dict[str, str]:
        cache_dir = default_cache_dir(os.environ)
        found = {}
        for name, model in self._config.models.items():
            with self._reporter.step(f"looking for the weights of {name}"):
                found[name] = str(resolve_weights(model.source, cache_dir, self._reporter.note))
        return found

    def _train_adapters(self) -> None:
        """Those of recipes, here and once: a replica that had to would be given up as too slow."""
        sources = [adapter.source for adapter in self._config.adapters.catalogue.values()]
        recipes = [s.removeprefix(RECIPE_PREFIX) for s in sources if s.startswith(RECIPE_PREFIX)]
        if recipes:
            with self._reporter.step("looking for the adapters of recipes"):
                made_adapters(recipes, default_cache_dir(os.environ), self._reporter.note)

    def _save(self, key_path: Path | None) -> None:
        self._state = own_state(
            phase="starting",
            url=self._base_url,
            config_path=str(self._config_path.resolve()),
            ports=wanted_ports(self._config),
            admin_key_env=self._config.gateway.admin_key_env,
            admin_key_path=str(key_path) if key_path else None,
        )
        save_state(self._state_dir, self._state)

    def _note_state(self, **changes: object) -> None:
        if self._state is not None:
            self._state = dataclasses.replace(self._state, **changes)  # type: ignore[arg-type]
            save_state(self._state_dir, self._state)

    def _serve(self) -> None:
        """Say that it is ready and wait; returns never, raises what ends it."""
        self._note_state(phase="ready")
        url = f"{self._base_url}/v1"
        self._reporter.event("ready", f"tidemill is ready: {url}", url=url)
        self._reporter.note(_example(url, self._config.default_model))
        cluster = self._cluster
        targets = TargetsFile(
            self._config,
            base_url=self._base_url,
            admin_key=self._admin_key,
            state_dir=self._state_dir,
            runtime_dir=runtime_dir_of(self._state_dir),
            now_s=time.monotonic,
        )
        while cluster is not None and cluster.is_alive():
            targets.refresh()
            time.sleep(_WATCH_S)
        raise CliError(f"the Ray head ended on its own; logs are below {self._state_dir}")

    def _stop(self, status: int) -> int:
        self._signals.begin_stopping()
        # From here a StopRequested is impatience, and whatever state we are in ends in killing.
        try:
            if self._cluster is not None:
                self._note_state(phase="stopping")
                self._reporter.note("stopping (Ctrl-C again kills at once)")
                self._cluster.stop(self._reporter.note)
        except StopRequested:
            self._reporter.note("killing")
            self._kill()
        except (LocalClusterError, OSError) as error:
            self._reporter.error(str(error))
            status = 1
        if self._state is not None:
            with contextlib.suppress(OSError):
                remove_state(self._state_dir)
            self._reporter.event("stopped", "stopped")
        return status

    def _kill(self) -> None:
        if self._cluster is not None:
            try:
                self._cluster.kill()
            except LocalClusterError as error:
                self._reporter.error(str(error))


def _example(url: str, model: str) -> str:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return f"try it:  curl {url}/chat/completions -H 'content-type: application/json' -d '{body}'"
