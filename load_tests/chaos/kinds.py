"""The clusters that cases ask for: plain, with Redis, nodes that can die, adapters, models left open."""

import copy
import json
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from load_tests.chaos.cluster import CONFIG, MODEL, ChaosCluster, ClusterError, free_ports

NODE_RESOURCE = "decode-node"
"""What a node must offer to carry a decode replica."""
ADAPTERS = ("law", "code", "sql")
"""One more than a replica has slots for."""
_ADAPTER_BYTES = 4096
_REDIS_START_S = 10.0


class RedisCluster(ChaosCluster):
    """Ray's control store keeps its tables in a Redis server of this cluster's own."""

    def __init__(self) -> None:
        """Prepare."""
        (self._redis_port,) = free_ports(1)
        self._redis: subprocess.Popen[bytes] | None = None
        super().__init__(CONFIG, environment={"RAY_REDIS_ADDRESS": f"127.0.0.1:{self._redis_port}"})

    def start(self) -> None:
        """See the base class; Redis first."""
        log = self.folder / "redis.log"
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self._redis_port), "--save", ""]
        with log.open("wb") as out:
            try:
                self._redis = subprocess.Popen(  # noqa: S603 - our own command
                    command,
                    cwd=self.folder,
                    env=self.environment,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise ClusterError("redis-server is not installed") from None
        deadline_s = time.monotonic() + _REDIS_START_S
        while "Ready to accept connections" not in (said := log.read_text(errors="replace")):
            if time.monotonic() > deadline_s:
                self.stop()
                raise ClusterError(f"Redis did not come up: {said[-500:]}")
            time.sleep(0.1)
        super().start()

    def stop(self) -> None:
        """See the base class; Redis last, which writes its title over the mark in its environment."""
        super().stop()
        if self._redis is not None:
            self._redis.kill()
            self._redis.wait()


class NodesCluster(ChaosCluster):
    """Every decode replica has a node of its own, which Ray's autoscaler starts."""

    def __init__(self) -> None:
        """Prepare."""
        config = copy.deepcopy(CONFIG)
        config["pools"]["decode"]["resources"]["custom"] = {NODE_RESOURCE: 1}
        config["local_cluster"]["simulated_nodes"] = {
            "decode": {"cpus": 1, "resources": {NODE_RESOURCE: 1}, "max": 4}
        }
        super().__init__(config)


class AdaptersCluster(ChaosCluster):
    """Decode replicas with two slots for three adapters, which part of the load asks for."""

    def __init__(self) -> None:
        """Prepare."""
        super().__init__(copy.deepcopy(CONFIG))
        catalogue = {
            name: {"base_model": MODEL, "source": str(_adapter(self.folder / name, seed))}
            for seed, name in enumerate(ADAPTERS)
        }
        self.config["adapters"] = {"catalogue": catalogue}
        self.config["pools"]["decode"]["adapters"] = {"slots": len(ADAPTERS) - 1}
        self.models = (MODEL, *(f"{MODEL}:{name}" for name in ADAPTERS))


class OpenModelCluster(ChaosCluster):
    """Half of the load leaves the model open, so that something is learnt."""

    def __init__(self) -> None:
        """Prepare."""
        super().__init__(CONFIG)
        self.models = (MODEL, "auto")


KINDS: dict[str, Callable[[], ChaosCluster]] = {
    "plain": lambda: ChaosCluster(CONFIG),
    "adapters": AdaptersCluster,
    "open_model": OpenModelCluster,
    "nodes": NodesCluster,
    "redis": RedisCluster,
}


def _adapter(folder: Path, seed: int) -> Path:
    """PEFT's two files, as small as the simulated engine, which only pages them, can use."""
    folder.mkdir(parents=True)
    facts = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(facts), encoding="utf-8")
    tensor = {"dtype": "F32", "shape": [1, _ADAPTER_BYTES // 4], "data_offsets": [0, _ADAPTER_BYTES]}
    header = json.dumps({"a": tensor}).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes([seed]) * _ADAPTER_BYTES
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder
