"""Runs agent jobs on Ray and answers for their state. Runs on Python 3.9 to 3.13, whichever the cluster has."""

import os

# Ray reads these when it is imported: how we were started (`uv run`, say) is no matter of the workers, and an actor without
# GPUs leaves the node's variables alone.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
