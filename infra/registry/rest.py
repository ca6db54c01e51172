"""MLflow's registry over its REST interface: the calls that every sweep and most commands make.

Importing MLflow takes longer than a whole idle sweep, so these few calls go without it. They have the
names and the results of MLflow's own client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from types import SimpleNamespace
from typing import Any

import httpx

from infra.faults import in_words
from infra.servers import mlflow_server
from infra.tls import authorities

_TIMEOUT = 60  # Seconds that a call may take.


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model, as `mlflow.entities.model_registry.ModelVersion`."""

    name: str
    version: str
    creation_timestamp: int
    status: str
    source: str = ""
    run_id: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


class Page(list[Any]):
    """One page of a search, and the token of the next; none: it is the last."""

    token: str | None = None


class RestClient:
    """A client of one MLflow server; what is not here is done by MLflow's own, loaded then."""

    def __init__(
        self,
        uri: str,
        login: tuple[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connects to the server at `uri`, with a name and a password where it asks for them."""
        self.tracking_uri = uri
        self._server = mlflow_server(uri)
        self._http = httpx.Client(
            base_url=f"{uri}/api/2.0/mlflow/",
            auth=login,
            timeout=_TIMEOUT,
            transport=transport or httpx.HTTPTransport(verify=authorities(uri), retries=2),
        )

    def __getattr__(self, name: str) -> Any:
        """Any other method, of MLflow's own client."""
        return _in_words(getattr(self._mlflow, name))

    def search_registered_models(self, filter_string: str = "") -> Page:
        """The registered models that a filter selects, with name and aliases."""
        answer = self._get("registered-models/search", filter=filter_string)
        return _page(answer, "registered_models", _model)

    def create_registered_model(self, name: str) -> None:
        """Creates a registered model."""
        self._send("POST", "registered-models/create", name=name)

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Points an alias to a version."""
        self._send("POST", "registered-models/alias", name=name, alias=alias, version=version)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Removes an alias."""
        self._send("DELETE", "registered-models/alias", name=name, alias=alias)

    def search_model_versions(
        self, filter_string: str, max_results: int, page_token: str | None = None
    ) -> Page:
        """A page of the versions that a filter selects."""
        answer = self._get(
            "model-versions/search",
            filter=filter_string,
            max_results=max_results,
            page_token=page_token,
        )
        return _page(answer, "model_versions", _version)

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        *,
        tags: Mapping[str, str],
        description: str | None = None,
        await_creation_for: int = 0,  # noqa: ARG002 - as MLflow's; its server is done at once
    ) -> ModelVersion:
        """Creates a version of a registered model."""
        answer = self._send(
            "POST",
            "model-versions/create",
            name=name,
            source=source,
            run_id=run_id,
            description=description,
            tags=[{"key": key, "value": value} for key, value in tags.items()],
        )
        return _version(answer["model_version"])

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Sets a tag of a version."""
        self._send(
            "POST", "model-versions/set-tag", name=name, version=version, key=key, value=value
        )

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        """Removes a tag of a version."""
        self._send("DELETE", "model-versions/delete-tag", name=name, version=version, key=key)

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        """Where a version's files are."""
        answer = self._get("model-versions/get-download-uri", name=name, version=version)
        return str(answer["artifact_uri"])

    def get_run(self, run_id: str) -> Any:
        """A run: its experiment, and its metrics by name."""
        run = self._get("runs/get", run_id=run_id)["run"]
        metrics = {m["key"]: m["value"] for m in run["data"].get("metrics", ())}
        return SimpleNamespace(
            info=SimpleNamespace(experiment_id=run["info"]["experiment_id"]),
            data=SimpleNamespace(metrics=metrics),
        )

    @cached_property
    def _mlflow(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.tracking_uri)

    def _get(self, call: str, **values: Any) -> Any:
        given = {name: value for name, value in values.items() if value is not None}
        return self._ask("GET", call, params=given)

    def _send(self, method: str, call: str, **values: Any) -> Any:
        given = {name: value for name, value in values.items() if value is not None}
        return self._ask(method, call, json=given)

    def _ask(self, method: str, call: str, **more: Any) -> Any:
        try:
            answer = self._http.request(method, call, **more)
        except httpx.HTTPError as error:
            raise self._server.away(error) from error
        if not answer.is_success:
            raise self._server.answered(answer.status_code, call, answer.text)
        try:
            return answer.json()
        except ValueError as error:
            raise self._server.strange(f"{call}: {answer.text[:100]!r}") from error


def _in_words(method: Any) -> Any:
    """The same, with what MLflow's own client raises as the project's errors."""

    @wraps(method)
    def ask(*arguments: Any, **named: Any) -> Any:
        with in_words():
            return method(*arguments, **named)

    return ask


def _page(answer: Mapping[str, Any], name: str, read: Any) -> Page:
    page = Page(read(item) for item in answer.get(name, ()))
    page.token = answer.get("next_page_token") or None
    return page


def _model(answer: Mapping[str, Any]) -> Any:
    aliases = {item["alias"]: item["version"] for item in answer.get("aliases", ())}
    return SimpleNamespace(name=answer["name"], aliases=aliases)


def _version(answer: Mapping[str, Any]) -> ModelVersion:
    return ModelVersion(
        name=answer["name"],
        version=answer["version"],
        creation_timestamp=int(answer["creation_timestamp"]),
        status=answer["status"],
        source=answer.get("source", ""),
        run_id=answer.get("run_id", ""),
        description=answer.get("description", ""),
        tags={tag["key"]: tag["value"] for tag in answer.get("tags", ())},
    )
