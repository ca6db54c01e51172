"""Empties the family of the demo, so that it can be shown from the start."""

from __future__ import annotations

from infra.queue import MergeQueue


def empty_family(queue: MergeQueue) -> None:
    """Deletes the family's registered models and every object below its folder, log included."""
    client = queue.registry.client
    names = {queue.name} | {expert.name for expert in queue.registry.experts.of(queue.name)}
    present = {model.name for model in client.search_registered_models()}
    for name in names & present:
        client.delete_registered_model(name)
    for item in queue.store.list(queue.family.root):
        queue.store.delete(item.uri)
