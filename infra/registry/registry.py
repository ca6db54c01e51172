"""MLflow as the queue sees it: experts, merged models, and the runs of attempts.

MLflow is where people look. Nothing is decided from its aliases, and what comes from outside is
validated before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.registry.experts import Experts
from infra.registry.merged import MergedVersions
from infra.registry.runs import Runs
from infra.storage.store import S3Uri

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Registry:
    """One MLflow server.

    Attributes:
        client: MLflow's own client.
        experts: The experts that are registered in it.
        merged: The merged models that are registered in it.
        runs: What it shows of every attempt.
    """

    def __init__(self, client: MlflowClient, artifact_root: S3Uri | None = None) -> None:
        """Looks at one server; `artifact_root` is the S3 folder behind ``mlflow-artifacts:``."""
        self.client = client
        self.experts = Experts(client, artifact_root)
        self.merged = MergedVersions(client)
        self.runs = Runs(client)
