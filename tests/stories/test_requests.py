"""What a sweep and an arrival ask of the servers does not grow with what was merged before."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest import mock

from mlflow import MlflowClient

from infra.storage.folder import FolderStore

OF_THE_STORE = ("list", "exists", "read", "write", "create", "delete", "download", "upload")
OF_MLFLOW = ("search_registered_models", "search_model_versions", "set_model_version_tag")


@contextmanager
def counted():
    """Requests by name; those for heads, of which a new model has one for each task, apart."""
    found = Counter()
    with ExitStack() as patches:
        for owner, names in ((FolderStore, OF_THE_STORE), (MlflowClient, OF_MLFLOW)):
            for name in names:
                real = getattr(owner, name)

                def call(self, *args, real=real, name=name, **more):
                    heads = any("/heads/" in str(argument) for argument in args)
                    found[f"{name} a head's file" if heads else name] += 1
                    found[f"{name} of the log"] += "/promotions/" in str(args)
                    return real(self, *args, **more)

                patches.enter_context(mock.patch.object(owner, name, call))
        yield found


def arrival(queue, task):
    queue.land(task, 90)
    with counted() as found:
        assert "promoted" in queue.sweep()
    return found


def sweep(queue):
    with counted() as found:
        assert "No expert is waiting" in queue.sweep()
    return found


def test_requests_are_for_what_is_new_alone(two):
    sweep(two)
    idle = sweep(two)
    assert idle["read of the log"] == 0, "it is known"
    assert idle["list"] <= 2, "of the log"
    arrival(two, "sport")
    fourth, fifth = arrival(two, "travel"), arrival(two, "music")
    heads = {"upload a head's file", "download a head's file"}
    more = fifth - fourth
    assert {name for name, count in more.items() if count} <= heads, more
    assert set(more.values()) <= {2}, "of each task"
    assert sweep(two) == idle
