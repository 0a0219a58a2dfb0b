"""CPU packages through the kernel's powercap folder (Intel's and AMD's RAPL counters)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.entities.energy import EnergyReading, Meter

_PREFIXES = ("intel-rapl:", "amd-rapl:")


@dataclass(slots=True)
class _Package:
    folder: Path
    range_uj: int
    counter_uj: int | None = None
    energy_j: float = 0.0
    read_at_s: float | None = None
    told_j: float = 0.0
    told_at_s: float | None = None


class RaplMeter:
    """All packages of this node. `sample` must be called more often than a counter wraps (about a minute)."""

    def __init__(self, root: Path, clock: Callable[[], float]) -> None:
        """Look for packages.

        Args:
            root: the powercap folder.
            clock: monotonic seconds.
        """
        self._clock = clock
        self.errors: dict[str, str] = {}
        """What does not work now, and why: `absent`, `no_permission`, `other`."""
        self._packages: dict[str, _Package] = {}
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if _is_package(folder):
                name = f"cpu-package-{folder.name.rpartition(':')[2]}"
                try:
                    self._packages[name] = _Package(folder, _number(folder / "max_energy_range_uj"))
                except (OSError, ValueError) as error:
                    self.errors[name] = _word(error)
        if not self._packages and not self.errors:
            self.errors["rapl"] = "absent"

    def sample(self) -> None:
        """Read every package once. Never raises; see `errors`."""
        now_s = self._clock()
        for name, package in self._packages.items():
            try:
                counter_uj = _number(package.folder / "energy_uj")
            except (OSError, ValueError) as error:
                self.errors[name] = _word(error)
                package.counter_uj = package.told_at_s = None
                continue
            if package.counter_uj is not None:
                more = counter_uj - package.counter_uj
                package.energy_j += (more if more >= 0 else more + package.range_uj) / 1e6
            package.counter_uj, package.read_at_s = counter_uj, now_s
            self.errors.pop(name, None)

    def readings(self) -> tuple[EnergyReading, ...]:
        """What each package has used so far; those that cannot be read now are left out."""
        found = []
        for name, package in self._packages.items():
            if name in self.errors or package.read_at_s is None:
                continue
            span_s = package.read_at_s - package.told_at_s if package.told_at_s is not None else 0.0
            found.append(
                EnergyReading(
                    device=name,
                    meter=Meter.RAPL,
                    energy_j=package.energy_j,
                    power_w=(package.energy_j - package.told_j) / span_s if span_s > 0 else None,
                    observed_at_s=package.read_at_s,
                )
            )
            package.told_j, package.told_at_s = package.energy_j, package.read_at_s
        return tuple(found)


def _is_package(folder: Path) -> bool:
    """Whether a domain is a package.

    Its sub-domains (`intel-rapl:0:0`) are counted in it already, and it is counted in the whole machine
    (`psys`), which some have beside it.
    """
    if not folder.name.startswith(_PREFIXES) or folder.name.count(":") != 1:
        return False
    try:
        return (folder / "name").read_text(encoding="ascii").startswith("package")
    except (OSError, ValueError):
        return True


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii").strip())


def _word(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "no_permission"
    return "absent" if isinstance(error, FileNotFoundError) else "other"
