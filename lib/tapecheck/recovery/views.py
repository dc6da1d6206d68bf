"""What of a target is watched during a drill, and what state an answer is. It asks nobody."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from tapecheck.config import Model
from tapecheck.recovery.recording import BAD, DEGRADED, FULL

SQL = "SELECT"  # a view whose request begins so is asked of the database


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, int) else value


class Answer(Model):
    """Conditions on an answer: its status is one of these, and its JSON body has these values at its top level."""

    status: Annotated[tuple[int, ...], BeforeValidator(_several)] = (200,)
    json_: dict[str, Any] = Field(default={}, alias="json")

    def fits(self, status: int, body: Any) -> bool:
        """Tell whether an answer is so; `body` is decoded JSON, or None for anything else."""
        if status not in self.status:
            return False
        return not self.json_ or (isinstance(body, dict) and all(body.get(key, ...) == value for key, value in self.json_.items()))


class View(Model):
    """One thing that is asked again and again: a request template of the target, `METHOD /path`, or a SELECT for its database.

    Args:
        full: the answer when all is well.
        degraded: the answer of a fallback; without one there is none.
        reports: the answer that tells of the failure, by which the target itself has detected it.
        serves: whether the target counts as serving, at least degraded, only when this view does.
    """

    request: str = Field(min_length=1)
    parameters: dict[str, str | int] = Field(default={})
    full: Answer = Answer()
    degraded: Answer | None = None
    reports: Answer | None = None
    serves: bool = False

    @model_validator(mode="after")
    def _sql_has_no_body(self) -> "View":
        if self.is_sql and (self.full.json_ or self.degraded or self.reports or self.parameters):
            raise ValueError("a SELECT alone, without conditions: the database answers it or does not")
        return self

    @property
    def is_sql(self) -> bool:
        """Whether the database is asked."""
        return self.request.startswith(SQL)

    def state(self, status: int, body: Any) -> int:
        """Return what an answer says of the target."""
        if self.full.fits(status, body):
            return FULL
        return DEGRADED if self.degraded and self.degraded.fits(status, body) else BAD

    def tells(self, status: int, body: Any) -> bool:
        """Tell whether an answer reports the failure."""
        return self.reports is not None and self.reports.fits(status, body)
