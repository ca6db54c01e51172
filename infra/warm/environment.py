"""The environment of processes that must not know any secret."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

_ALLOWED = (
    *("PATH", "HOME", "USER", "LANG", "LC_*", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHON*"),
    *("LD_LIBRARY_PATH", "CUDA_*", "NVIDIA_*", "OMP_*", "MKL_*", "OPENBLAS_*"),
    # How clients behave, as `infra.settings.CLIENT_DEFAULTS` has it; addresses and keys are not here.
    *("DO_NOT_TRACK", "HF_HUB_DISABLE_*", "TRANSFORMERS_VERBOSITY", "MLFLOW_DISABLE_TELEMETRY"),
    *("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "PREFECT_SERVER_ANALYTICS_ENABLED", "PREFECT_HOME"),
)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a process needs to run at all; whatever is not known to be harmless is out."""
    return {
        name: value
        for name, value in environment.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in _ALLOWED)
    }
