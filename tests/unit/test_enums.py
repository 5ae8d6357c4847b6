"""The enumerations: values, parsing, properties."""

from __future__ import annotations

from enum import StrEnum

import pytest

from celers.errors import ValidationError
from celers.model import enums
from celers.model.enums import DbTaskState, ParsedEnum, TaskResultStatus

UPPER_CASE = "PENDING STARTED SUCCESS FAILURE RETRY REVOKED"
VALUES = [
    ("ENUM-01", enums.DbTaskState, "pending processing completed failed cancelled"),
    ("ENUM-02", enums.TaskResultStatus, UPPER_CASE),
    ("ENUM-03", enums.WorkerStatus, "active idle busy offline"),
    ("ENUM-04", enums.CircuitBreakerState, "closed open half_open"),
    ("ENUM-05", enums.WorkflowState, "pending running completed failed cancelled"),
    ("ENUM-06", enums.StageState, "pending running completed failed skipped"),
    (
        "ENUM-07",
        enums.TaskHook,
        " ".join(f"{when}_{what}" for what in ("enqueue", "dequeue", "ack", "reject") for when in ("before", "after")),
    ),
    ("ENUM-08", enums.ScalingAction, "scale_up optimal scale_down"),
    ("ENUM-09", enums.QueueTrend, "rapid_growth slow_growth stable slow_shrink rapid_shrink"),
    ("ENUM-10", enums.SlaStatus, "compliant warning violation"),
    ("ENUM-11", enums.CapacityStatus, "sufficient warning critical exceeded"),
    ("ENUM-12", enums.PoolHealthStatus, "healthy warning critical"),
    ("ENUM-13", enums.ReplicaStatus, "healthy warning critical error"),
]
CASES = [
    pytest.param(enum, values.split(), marks=pytest.mark.spec(spec), id=enum.__name__) for spec, enum, values in VALUES
]
ALL = [enum for _, enum, _ in VALUES]


@pytest.mark.parametrize(("enum", "values"), CASES)
def test_members(enum: type[ParsedEnum], values: list[str]) -> None:
    assert issubclass(enum, StrEnum)
    assert [str(member) for member in enum] == values
    assert [member.name for member in enum] == [value.upper() for value in values]


@pytest.mark.parametrize(("enum", "values"), CASES)
def test_parse_ignores_case(enum: type[ParsedEnum], values: list[str]) -> None:
    for value in values:
        member = enum(value)
        for text in (value, value.upper(), value.lower(), value.title(), member):
            assert enum.parse(text) is member


@pytest.mark.parametrize("enum", ALL, ids=lambda enum: enum.__name__)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        " pending",
        "pending\n",
        "ſuccess",
        None,
        1,
        b"pending",
        pytest.param(10**5000, id="huge"),
    ],
)
def test_parse_refuses_unknown_text(enum: type[ParsedEnum], text: object) -> None:
    with pytest.raises(ValidationError, match=enum.__name__):
        enum.parse(text)  # type: ignore[arg-type]


def test_every_enumeration_is_listed() -> None:
    found = {value for value in vars(enums).values() if isinstance(value, type) and issubclass(value, ParsedEnum)}
    assert found - {ParsedEnum} == set(ALL)
    assert {enum.__name__ for enum in ALL} == set(enums.__all__)


@pytest.mark.spec("ENUM-01")
def test_terminal_states() -> None:
    terminal = {state for state in DbTaskState if state.is_terminal}
    assert terminal == {DbTaskState.COMPLETED, DbTaskState.FAILED, DbTaskState.CANCELLED}


@pytest.mark.spec("ENUM-02")
def test_final_statuses() -> None:
    final = {status for status in TaskResultStatus if status.is_final}
    assert final == {TaskResultStatus.SUCCESS, TaskResultStatus.FAILURE, TaskResultStatus.REVOKED}
