"""Learning the coefficients of a build, and writing the merged model that they give."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from infra.engine import Engine
from merging.experts.heads import Head
from merging.learning.learn import Learned
from merging.learning.state import StepRecord
from merging.models.coefficients import Coefficients
from merging.models.folder import MergedFolder
from merging.models.materialise import materialise
from tasks.values import Build

_LOG_EVERY = 20  # Steps between two lines of the log.


@task(cache_policy=NO_CACHE, persist_result=False)
def learn(engine: Engine, build: Build, work: Path) -> Learned:
    """Learns how much of each expert goes where; goes on where a killed run left off.

    Args:
        engine: What learns.
        build: What is merged, and how.
        work: A folder that outlives a killed run.
    """
    log = get_run_logger()

    def progress(record: StepRecord) -> None:
        if record.losses and record.step % _LOG_EVERY == 0:
            log.info("step %d: loss %.4f", record.step, mean(record.losses.values()))

    start, heads = _deployed_state(build)
    return engine.learn(
        build.experts,
        build.settings,
        start=start,
        frozen=[member.task for member in build.kept] if build.rung == "chain" else (),
        heads=heads,
        work=work,
        device=build.device,
        progress=progress,
    )


@task(cache_policy=NO_CACHE, persist_result=False)
def write_model(build: Build, learned: Learned, work: Path) -> MergedFolder:
    """Writes the merged backbone, heads and coefficients into a folder below ``work``."""
    out = work / "merged"
    if not out.exists():  # It is renamed into place, so what exists is whole.
        write_dtype = build.settings.write_dtype
        materialise(build.experts, learned.coefficients, learned.heads, out, write_dtype)
    return MergedFolder(out)


def _deployed_state(build: Build) -> tuple[Coefficients | None, dict[str, Head] | None]:
    """Coefficients and heads of the experts that stay; None where learning starts afresh."""
    warm = build.rung == "chain" or build.settings.warm_start
    if build.deployed is None or not build.kept or not warm:
        return None, None
    kept = [member.task for member in build.kept]
    coefficients = Coefficients.load(build.deployed.folder.coefficients)
    heads = {name: Head.load(build.deployed.folder.head(name), name) for name in kept}
    return coefficients.select(kept), heads
