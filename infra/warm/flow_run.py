"""What Prefect starts for each flow run, in a process forked from the warm parent."""

from __future__ import annotations

import runpy

from prefect.context import refresh_global_settings_context
from prefect.logging.configuration import setup_logging

if __name__ == "__main__":
    # The parent imported Prefect in its own environment; this process has the flow run's.
    refresh_global_settings_context()
    setup_logging(incremental=False)
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
