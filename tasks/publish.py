"""The decision on the page of the Prefect flow run."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from infra.report.summary import markdown_summary, summary_rows
from tasks.retry import SIDE_EFFECT
from tasks.values import Attempt


@task(**SIDE_EFFECT)
def publish_attempt(attempt: Attempt) -> None:
    """Adds the decision, a row per task and a link to the report to the flow run."""
    report, page = attempt.report, attempt.page
    name = f"{attempt.build.family.name}-{attempt.build.rung}"
    create_markdown_artifact(
        markdown_summary(report, page), key=f"{name}-decision", description="Decision"
    )
    create_table_artifact(summary_rows(report), key=f"{name}-scores", description="Scores per task")
    create_link_artifact(page, link_text="Report in MLflow", key=f"{name}-report")
