"""Watches what the queue writes for people to see, and which status follows which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args
from unittest import mock

from mlflow import MlflowClient

from infra.registry.tags import ExpertStatus, MergedStatus
from tests.stories.world import FAMILY

STATUSES = {*get_args(ExpertStatus), *get_args(MergedStatus)}
_SHOWS = "Prefect shows "
_LONG = 40  # characters


@dataclass(frozen=True)
class Transition:
    """A change of status, and the reason that people read beside it."""

    kind: str
    before: str
    after: str
    reason: str


@dataclass
class Watch:
    """Everything said since the last look, and every transition of the story."""

    said: list[str] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    pages: dict[str, Any] = field(default_factory=dict)
    before_task: Callable[[str], None] = str
    _status: dict[tuple[str, str], str] = field(default_factory=dict)
    _reason: dict[tuple[str, str], str] = field(default_factory=dict)
    _pending: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    _told: list[str] = field(default_factory=list)
    _by_hand: bool = False

    def say(self, line: str, words: str = "") -> None:
        """Adds a line; long words that people were told already are not repeated."""
        self._settle()
        self._add(line, words)

    def take(self) -> list[str]:
        self._settle()
        said, self.said = self.said, []
        self._told.clear()
        return said

    def copy(self) -> Watch:
        """Knows the same versions, and has seen nothing yet."""
        return Watch(_status=dict(self._status), _reason=dict(self._reason))

    def forget(self) -> None:
        """No version is known any more."""
        self._settle()
        self._status.clear()
        self._reason.clear()

    def catch_up(self, statuses: Mapping[tuple[str, str], str]) -> None:
        """Knows what another process, which it could not watch, has written."""
        self._settle()
        self._status |= statuses

    @contextmanager
    def by_hand(self) -> Iterator[None]:
        """What is done now is not the queue's doing, though statuses are known afterwards."""
        self._settle()
        self._by_hand = True
        yield
        self._by_hand = False

    def known(self, name: str, version: str, status: str) -> None:
        """A version that came about in another way than by MLflow's `create_model_version`."""
        self._status[name, str(version)] = status

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Sees every version, tag and alias that is written through MLflow's client."""
        create = MlflowClient.create_model_version
        tag = MlflowClient.set_model_version_tag
        untag = MlflowClient.delete_model_version_tag
        alias = MlflowClient.set_registered_model_alias
        remove = MlflowClient.delete_registered_model_alias

        def created(client: MlflowClient, name: str, *args: Any, **more: Any) -> Any:
            version = create(client, name, *args, **more)
            first = version.tags.get("merge.status", "waiting")
            reason = version.tags.get("merge.reason", "")
            self._move((name, str(version.version)), "", first, reason)
            return version

        def tagged(client: MlflowClient, name: str, version: str, key: str, value: str) -> None:
            tag(client, name, version, key, value)
            noted((name, version), key, value)

        def untagged(client: MlflowClient, name: str, version: str, key: str) -> None:
            untag(client, name, version, key)
            noted((name, version), key, "")

        def noted(item: tuple[str, str], key: str, value: str) -> None:
            if self._by_hand:
                if key == "merge.status" and value in STATUSES:
                    self._status[item] = value
                return
            if item not in self._pending:
                self._settle()
            self._pending.setdefault(item, {})[key] = value
            if key == "merge.status":  # which is written last
                self._settle()

        def pointed(client: MlflowClient, name: str, to: str, version: str) -> None:
            alias(client, name, to, version)
            if not self._by_hand:
                self.say(f"{to} is version {version}")

        def removed(client: MlflowClient, name: str, which: str) -> None:
            remove(client, name, which)
            if not self._by_hand:
                self.say(f"{which} is no version")

        with mock.patch.multiple(
            MlflowClient,
            create_model_version=created,
            set_model_version_tag=tagged,
            delete_model_version_tag=untagged,
            set_registered_model_alias=pointed,
            delete_registered_model_alias=removed,
        ):
            yield

    def _settle(self) -> None:
        """Tags of one version that were written together are one thing to see."""
        pending, self._pending = self._pending, {}
        for item, tags in pending.items():
            reason = self._reason[item] = tags.get("merge.reason", self._reason.get(item, ""))
            if "merge.status" in tags:
                self._move(item, self._status[item], tags["merge.status"], reason)
            elif "merge.reason" in tags and reason:
                self._add(f"{_named(item)} ({self._status[item]}): {reason}", reason)
            if review := tags.get("merge.review"):
                self._add(f"{_named(item)} reads in review: {review}", review)

    def _move(self, item: tuple[str, str], before: str, after: str, reason: str) -> None:
        kind = "merged version" if item[0] == FAMILY else "expert"
        self._status[item] = after
        words = f": {reason}" if reason else ""
        if before != after:
            self.transitions.append(Transition(kind, before or "–", after, reason))
            self._add(f"{_named(item)}: {before or '–'} → {after}{words}", reason)
        elif reason:
            self._add(f"{_named(item)} ({after}){words}", reason)

    def _add(self, line: str, words: str) -> None:
        for told in self._told:
            line = line.replace(told, "〃")
        if line.startswith(_SHOWS) and self.said and self.said[-1].startswith(_SHOWS):
            self.said[-1] += ", " + line.removeprefix(_SHOWS)
        else:
            self.said.append(line)
        if len(words) > _LONG:
            self._told.append(words)


def _named(item: tuple[str, str]) -> str:
    name, version = item
    return (
        f"version {version}" if name == FAMILY else f"{name.removeprefix(FAMILY + '-')}/{version}"
    )
