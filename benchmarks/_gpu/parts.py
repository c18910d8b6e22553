"""The parts of a GPU run, in order of worth, each with its limit; together more than the run has, since most end early."""

from __future__ import annotations

from benchmarks._gpu.runner import Part

HERE = "benchmarks._gpu"
LIMIT_S = 455.0  # of a whole run; with the table after it under 8 minutes
PARTS = (
    Part(name="machine", target=f"{HERE}.machine:run", limit_s=60),
    Part(name="correctness", target=f"{HERE}.correctness:run", limit_s=90),
    Part(name="device_tests", target=f"{HERE}.device_tests:run", limit_s=45),
    Part(name="memory", target=f"{HERE}.memory:run", limit_s=45),
    Part(name="infinitetalk", target=f"{HERE}.large:infinitetalk", limit_s=150),
    Part(name="paper", target=f"{HERE}.large:paper", limit_s=95),
    Part(name="kernels", target=f"{HERE}.kernels:run", limit_s=75),
    Part(name="decoders", target=f"{HERE}.decoders:run", limit_s=75),
    Part(name="tiny", target=f"{HERE}.small_model:run", limit_s=45),
    Part(name="training", target=f"{HERE}.training:run", limit_s=120, least_s=10))
