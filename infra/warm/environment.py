"""The environment of processes that must not know any secret."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping

OUTSIDE = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
"""What a process needs besides that speaks to servers elsewhere; an address may hold a password."""
_ALLOWED = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_*", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHON*"),
    *("LD_LIBRARY_PATH", "CUDA_*", "NVIDIA_*", "OMP_*", "MKL_*", "OPENBLAS_*", "PYTORCH_*"),
    *("NO_PROXY", "no_proxy", "SSL_CERT_*", "REQUESTS_CA_BUNDLE", "HF_HUB_OFFLINE"),
    # How clients behave, as `infra.shell.CLIENT_DEFAULTS` has it; addresses and keys are not here.
    *("DO_NOT_TRACK", "HF_HUB_DISABLE_*", "TRANSFORMERS_VERBOSITY", "MLFLOW_DISABLE_TELEMETRY"),
    *("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "PREFECT_SERVER_ANALYTICS_ENABLED", "PREFECT_HOME"),
)


def without_secrets(environment: Mapping[str, str], also: Iterable[str] = ()) -> dict[str, str]:
    """The variables that a process needs to run at all; whatever is not known to be harmless is out.

    Args:
        environment: Names and values.
        also: Patterns of names that this process needs besides.
    """
    patterns = (*_ALLOWED, *also)
    return {
        name: value
        for name, value in environment.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
