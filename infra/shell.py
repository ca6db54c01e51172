"""What the clients of MLflow, S3 and Prefect read in their environment, beside addresses and keys."""

from __future__ import annotations

from collections.abc import Mapping

OTHER_KEYS = ("AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE")
"""Variables by which a shell opens another S3 than the one of the settings."""
PROXIES = tuple(
    f(f"{kind}_proxy") for kind in ("http", "https", "all") for f in (str.lower, str.upper)
)
"""Variables by which a shell sends requests through a proxy."""
# How Prefect is told another class for the formatter that it calls json, and to use it.
JSON_LOGS = {
    "PREFECT_LOGGING_FORMATTERS_JSON_CLASS": "infra.logs.JsonFormatter",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json",
    "PREFECT_LOGGING_COLORS": "false",
}
LOOPBACK = ("127.0.0.1", "localhost")
CLIENT_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Torch threads that spin while they wait starve the servers they share cores with, and themselves.
    "OMP_WAIT_POLICY": "PASSIVE",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Weights and code never travel as pickle; MLflow and Prefect both allow it unless told.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    # Seconds between heartbeats; a run that stops sending them is marked as crashed.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # The defaults keep a client waiting for minutes on a server that is down; tasks have retries.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}


def past_proxies(shell: Mapping[str, str]) -> dict[str, str]:
    """The variables with which a shell's proxy is not asked for the servers on this machine."""
    if not any(shell.get(name) for name in PROXIES):
        return {}
    names = ("NO_PROXY", "no_proxy")
    hosts = [host for name in names for host in shell.get(name, "").split(",") if host]
    return dict.fromkeys(names, ",".join(dict.fromkeys([*hosts, *LOOPBACK])))
