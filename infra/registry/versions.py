"""Registered models and their versions: what experts and merged models have in common in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from infra.errors import Unreadable
from infra.storage.pages import Page
from merging.errors import InvalidInput

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

    from infra.registry.tags import Tags
    from infra.storage.pages import Pages

_LOG = logging.getLogger(__name__)
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


def create_version(
    client: MlflowClient, pages: Pages | None, page: Page, **more: str | None
) -> ModelVersion:
    """Creates the version of a page, as MLflow numbers it, and keeps it.

    Where the page's number is still to come, MLflow's numbers before it are used up.

    Args:
        client: MLflow.
        pages: Where it is kept.
        page: What it shows; with the number 0 any will do.
        more: Whatever else `create_model_version` takes.
    """
    while True:
        created = client.create_model_version(
            page.name, page.source, tags=dict(page.tags), await_creation_for=0, **more
        )
        made = page.model_copy(update={"version": int(created.version)})
        if made.version >= page.version and _keep(pages, made):
            return created
        client.delete_model_version(page.name, created.version)


def _keep(pages: Pages | None, page: Page) -> bool:
    """Keeps a new page; False where its number is known as that of something else."""
    if pages is not None:
        with _left_to_a_run(page):
            if not pages.is_free(page.name, page.version, page.source):
                return False
            pages.write(page)
    return True


def retag(
    client: MlflowClient, pages: Pages | None, version: Page, tags: Tags, **values: object
) -> None:
    """Gives fields of a version's tags new values, and touches nothing that does not differ.

    They are kept first: what MLflow lacks then, it is told again.
    """
    changes = tags.changes(**values)
    if changes and pages is not None:
        with _left_to_a_run(version):
            pages.change(version, changes)
    write_tags(client, version, changes)


def write_tags(client: MlflowClient, version: Page, changes: Mapping[str, str | None]) -> None:
    """Sets tags of a version, or removes those whose value is None."""
    for tag, value in changes.items():
        if value is None:
            client.delete_model_version_tag(version.name, str(version.version), tag)
        else:
            client.set_model_version_tag(version.name, str(version.version), tag, value)


@contextmanager
def _left_to_a_run(page: Page) -> Iterator[None]:
    """A person's key need not write there: what he asks for in MLflow is kept when a run acts on it."""
    try:
        yield
    except Unreadable as error:
        _LOG.info("%s/%d is not kept in the object store: %s", page.name, page.version, error)


def version_page(server: str, name: str, number: int) -> str:
    """Where people look at a version."""
    return f"{server}/#/models/{name}/versions/{number}"
