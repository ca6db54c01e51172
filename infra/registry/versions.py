"""Registered models and their versions: what experts and merged models have in common in MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from merging.errors import InvalidInput

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

    from infra.registry.tags import Tags

_PER_PAGE = 200  # Versions that one search returns at once.


def ensure_model(client: MlflowClient, name: str) -> None:
    """Creates the registered model where it does not exist."""
    if find_model(client, name) is None:
        client.create_registered_model(name)


def find_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """A registered model with its aliases; None where there is none of this name."""
    return next(iter(client.search_registered_models(f'name = "{name}"')), None)


def get_version(client: MlflowClient, name: str, number: int) -> ModelVersion:
    """One version of a registered model.

    Raises:
        InvalidInput: There is no such version.
    """
    for version in search_versions(client, f'name = "{name}" AND version_number = {number}'):
        return version
    raise InvalidInput(
        where=client.tracking_uri,
        expected=f"version {number} of the registered model {name!r}",
        found="no such version",
        remedy="Look at the model's page for the versions there are.",
    )


def search_versions(client: MlflowClient, query: str) -> Iterator[ModelVersion]:
    """Every version that a filter of MLflow's selects, in no particular order."""
    token = None
    while True:
        page = client.search_model_versions(query, _PER_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def retag(client: MlflowClient, name: str, number: int, tags: Tags, **values: object) -> None:
    """Gives fields of a version's tags new values, and touches nothing that does not differ."""
    for tag, value in tags.changes(**values).items():
        if value is None:
            client.delete_model_version_tag(name, str(number), tag)
        else:
            client.set_model_version_tag(name, str(number), tag, value)


def version_page(server: str, name: str, number: int) -> str:
    """Where people look at a version."""
    return f"{server}/#/models/{name}/versions/{number}"
