"""Runs in a process of its own: the real binding on the library that LD_LIBRARY_PATH leads to.

Reads steps as JSON from standard input, one list of `[seconds, file content or null]`, and prints after each
what the meter says.
"""

import json
import os
import sys
from pathlib import Path

from operators.telemetry.nvml import NvmlMeter

clock_s = 0.0
meter = NvmlMeter(lambda: clock_s)
state = Path(os.environ["NVML_STAND_IN"])
told = []
for at_s, content in json.load(sys.stdin):
    clock_s = at_s
    if content is None:
        state.unlink(missing_ok=True)
    else:
        state.write_text(content)
    meter.sample()
    readings = {
        reading.device: [reading.meter.value, reading.energy_j, reading.power_w]
        for reading in meter.readings()
    }
    told.append({"readings": readings, "errors": dict(meter.errors)})
meter.close()
print(json.dumps(told))
