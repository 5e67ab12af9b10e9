"""What is learnt, as settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, model_validator

from scadles.config.names import CODE, PLAIN
from scadles.config.section import Section

if TYPE_CHECKING:
    from typing_extensions import Self

Option = StrictBool | int | float | str | tuple[float, ...]


class PartTask(Section):
    """What a model shall say of one part of a target; a name alone is the kind."""

    kind: Annotated[str, CODE] = Field(
        default="classification", description="classification | multilabel | regression | segmentation"
    )
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="of its loss in the sum of all parts'")
    loss: Annotated[str | None, CODE] = Field(default=None, description="as task.loss, of this part")
    loss_options: Annotated[dict[str, Option], PLAIN] = Field(
        default={}, description="as task.loss_options, of this part"
    )
    metrics: Annotated[tuple[str, ...], CODE] = Field(
        default=(), description="as task.metrics, of this part; the run calls them PART.METRIC"
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


class TaskConfig(Section):
    """What the model shall say of a sample, what is minimised, and what counts as good; a name alone is the kind."""

    kind: Annotated[str, CODE] = Field(
        default="classification",
        description="classification | multilabel | regression | forecasting | reconstruction | language | segmentation "
        "| multitask | MODULE:CALLABLE, which returns a scadles.Task",
    )
    parts: Annotated[dict[str, PartTask], CODE] = Field(
        default={},
        description="multitask: what is to be told of each part of a target, {kind: classification, box: {kind: "
        "regression, weight: 0.5}}; each with kind, weight, loss, loss_options and metrics",
    )
    loss: Annotated[str | None, CODE] = Field(
        default=None,
        description="a function of torch.nn.functional by its name, or MODULE:CALLABLE, the mean loss of (outputs, "
        "targets); none: the kind's",
    )
    loss_options: Annotated[dict[str, Option], PLAIN] = Field(
        default={}, description="arguments of that function: {label_smoothing: 0.1}, {weight: [1, 2, 5]}, {delta: 0.5}"
    )
    metrics: Annotated[tuple[str, ...], CODE] = Field(
        default=(), description="what a test measures, by name or MODULE:CALLABLE; the first decides; none: the kind's"
    )
    horizon: int = Field(
        default=1, ge=1, description="forecasting: how many of a window's last values are to be told from those before"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_parts(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("parts") and "kind" not in value:
            return {**value, "kind": "multitask"}
        return value

    @model_validator(mode="after")
    def _parts_of_several(self) -> Self:
        if self.parts and self.kind != "multitask":
            raise ValueError(f"parts: they belong to kind multitask, and kind is {self.kind}; leave one of them out")
        if self.kind == "multitask" and not self.parts:
            raise ValueError("kind multitask needs parts, for example {kind: classification, box: regression}")
        return self


def task_settings(value: Any) -> Any:
    """Take a bare name for the kind of a task: ``regression``."""
    return {"kind": value} if isinstance(value, str) else value


Task = Annotated[TaskConfig, BeforeValidator(task_settings)]


class TargetConfig(Section):
    """What a run is to reach: a metric of its task, and how good that must be."""

    metric: Annotated[str | None, PLAIN] = Field(default=None, description="none: the task's first")
    at_most: float | None = Field(default=None, description="of a metric of which less is better, such as mae")
    at_least: float | None = Field(default=None, description="of a metric of which more is better, such as accuracy")

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("say one of at_most and at_least: target: {metric: mae, at_most: 0.2}")
        return self

    @property
    def value(self) -> float:
        """The limit."""
        return self.at_most if self.at_most is not None else self.at_least or 0.0
