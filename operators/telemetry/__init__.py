"""Energy meters: GPUs through NVML, CPU packages through RAPL; what no meter reads is modelled."""
