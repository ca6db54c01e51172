"""Expectations that Great Expectations does not bring."""

from __future__ import annotations

from typing import Any, ClassVar

from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider
from great_expectations.render import LegacyRendererType, RenderedStringTemplateContent
from great_expectations.render.renderer.renderer import renderer


class _ConflictingRows(TableMetricProvider):
    metric_name = "table.conflicting_rows"
    value_keys = ("key_column", "value_column")

    @metric_value(engine=PandasExecutionEngine)
    def _pandas(
        cls,
        execution_engine: PandasExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any],
    ) -> dict[str, Any]:
        table, _, _ = execution_engine.get_compute_domain(
            metric_domain_kwargs, domain_type=MetricDomainTypes.TABLE
        )
        keys = table[metric_value_kwargs["key_column"]]
        values = table[metric_value_kwargs["value_column"]].groupby(keys).transform("nunique")
        return {"rows": table.index[values > 1].tolist(), "of": len(table)}


class ExpectKeysToHaveOneValue(BatchExpectation):
    """Rows with the same key have the same value (for example: are on one side of the split)."""

    key_column: str
    value_column: str
    metric_dependencies: ClassVar[tuple[str, ...]] = ("table.conflicting_rows",)
    success_keys: ClassVar[tuple[str, ...]] = ("key_column", "value_column")

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: Any = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        conflicts = metrics["table.conflicting_rows"]
        result = {
            "element_count": conflicts["of"],
            "unexpected_count": len(conflicts["rows"]),
            "unexpected_percent": 100 * len(conflicts["rows"]) / max(conflicts["of"], 1),
            "partial_unexpected_index_list": conflicts["rows"],
        }
        return {"success": not conflicts["rows"], "result": result}

    @classmethod
    @renderer(renderer_type=LegacyRendererType.PRESCRIPTIVE)
    def _prescriptive_renderer(
        cls, configuration: Any, **_more: Any
    ) -> list[RenderedStringTemplateContent]:
        return _worded("rows with the same $key_column must have one $value_column.", configuration)


class _LargestShare(TableMetricProvider):
    metric_name = "table.largest_share"
    value_keys = ("column",)

    @metric_value(engine=PandasExecutionEngine)
    def _pandas(
        cls,
        execution_engine: PandasExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any],
    ) -> float:
        table, _, _ = execution_engine.get_compute_domain(
            metric_domain_kwargs, domain_type=MetricDomainTypes.TABLE
        )
        shares = table[metric_value_kwargs["column"]].value_counts(normalize=True)
        return float(shares.max()) if len(shares) else float("nan")


class ExpectLargestClassShareToBeAtMost(BatchExpectation):
    """The most frequent value of a column has at most this share of the rows."""

    column: str
    maximum: float
    metric_dependencies: ClassVar[tuple[str, ...]] = ("table.largest_share",)
    success_keys: ClassVar[tuple[str, ...]] = ("column", "maximum")

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: Any = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        share = metrics["table.largest_share"]
        return {"success": share <= self.maximum, "result": {"observed_value": share}}

    @classmethod
    @renderer(renderer_type=LegacyRendererType.PRESCRIPTIVE)
    def _prescriptive_renderer(
        cls, configuration: Any, **_more: Any
    ) -> list[RenderedStringTemplateContent]:
        return _worded(
            "no value may have more than a share of $maximum of the rows.", configuration
        )


def _worded(template: str, configuration: Any) -> list[RenderedStringTemplateContent]:
    """An expectation in words, as Great Expectations' data docs take it."""
    content = {"template": template, "params": configuration.kwargs}
    return [RenderedStringTemplateContent(string_template=content)]
