"""A few questions with known answers that travel with a merged model.

Whoever loads it, wherever, can check that it answers as it did when it was judged. The health check
before every promotion does so in a fresh process, through MLflow, on a fresh download::

    python -m infra.packaging.probe FOLDER
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import Corrupt
from infra.settings import default_state_dir
from infra.warm.client import address_in, run_apart
from infra.warm.environment import without_secrets
from merging.models.folder import MergedFolder

if TYPE_CHECKING:  # a fresh process that only asks the model needs neither
    from merging.experts.expert import Expert
    from merging.models.outcomes import Outcomes

_QUESTIONS = 8  # per task
_TIMEOUT = 600  # seconds
_MODULE = "infra.packaging.probe"  # Its own name, by which the process that asks runs it.


def write_probe(
    path: Path, outcomes: Mapping[str, Outcomes], experts: Mapping[str, Expert]
) -> None:
    """Writes the first few gate examples of each task with the candidate's answers."""
    questions = {}
    for name, sheet in outcomes.items():
        examples = experts[name].split.gate
        labels = examples.labels
        count = min(_QUESTIONS, len(sheet))
        questions[name] = {
            "inputs": [_encode(value) for value in examples.inputs[:count]],
            "answers": [
                labels[int(answer)] if labels else answer for answer in sheet.predicted[:count]
            ],
        }
    path.write_text(json.dumps(questions, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def check_answers(directory: Path) -> None:
    """Loads the model in a fresh process and compares its answers with the recorded ones.

    The process sees no address and no credential of any server: it runs code that came with the model.

    Raises:
        Corrupt: It does not load, or answers differently.
    """
    environment = {**without_secrets(os.environ), "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    try:
        status, said = run_apart(
            address_in(default_state_dir()), _MODULE, [str(directory)], environment, _TIMEOUT
        )
    except TimeoutError:
        raise _unhealthy(f"no answers within {_TIMEOUT} seconds") from None
    if status < 0:
        name = signal.Signals(-status).name
        raise _unhealthy(f"{said}\nIts process was ended by {name}, as when memory runs out.")
    if status > 0:
        raise _unhealthy(said)


def _unhealthy(found: str) -> Corrupt:
    return Corrupt(
        where="health check of the merged model on a fresh download",
        expected="the answers that were judged",
        found=found.strip()[-2000:],
        remedy="It was not promoted. Build it again, or look at its files in the object store.",
    )


def _main(directory: Path) -> None:
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(directory))
    for name, probe in json.loads(MergedFolder(directory).probe.read_text()).items():
        inputs = [_decode(value) for value in probe["inputs"]]
        found = model.predict({"task": name, "inputs": inputs})
        answers = [answer["label"] if "label" in answer else answer["text"] for answer in found]
        if answers != probe["answers"]:
            sys.exit(f"task {name}: expected {probe['answers']}, found {answers}")


def _encode(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return list(value) if isinstance(value, tuple) else value


def _decode(value: Any) -> Any:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
