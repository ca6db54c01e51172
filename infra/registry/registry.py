"""MLflow as the queue sees it: experts, merged models, and the runs of attempts.

MLflow is where people look. Nothing is decided from its aliases, and what comes from outside is
validated before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from infra.registry.experts import Experts
from infra.registry.merged import MergedVersions
from infra.registry.rest import RestClient
from infra.registry.runs import Runs
from infra.registry.versions import write_tags
from infra.storage.store import S3Uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from infra.settings import Settings
    from infra.storage.pages import Page, Pages


class Registry:
    """One MLflow server.

    Attributes:
        client: MLflow's own client, or the light one, which is loaded sooner.
        experts: The experts that are registered in it.
        merged: The merged models that are registered in it.
        runs: What it shows of every attempt.
    """

    def __init__(
        self,
        client: MlflowClient,
        artifact_root: S3Uri | None = None,
        pages: Pages | None = None,
    ) -> None:
        """Looks at one server.

        Args:
            client: The server's client.
            artifact_root: The S3 folder behind ``mlflow-artifacts:``.
            pages: Where what is written on a family's versions is kept as well.
        """
        self.client = client
        self.experts = Experts(client, artifact_root, pages)
        self.merged = MergedVersions(client, pages)
        self.runs = Runs(client)

    @classmethod
    def connect(cls, settings: Settings, pages: Pages | None = None) -> Registry:
        """The MLflow of the settings: a server, or a database in this process."""
        root = settings.mlflow_artifact_root
        return cls(_client(settings), S3Uri.parse(root) if root else None, pages)

    def restore(self, page: Page, changes: Mapping[str, str | None]) -> None:
        """Writes on a page what the queue had written there; None removes a tag."""
        write_tags(self.client, page, changes)


def _client(settings: Settings) -> MlflowClient:
    if settings.mlflow_uri.startswith("http"):
        # It has the methods of MLflow's own.
        return cast("MlflowClient", RestClient(settings.mlflow_uri, settings.mlflow_login))
    from mlflow import MlflowClient

    return MlflowClient(settings.mlflow_uri)
