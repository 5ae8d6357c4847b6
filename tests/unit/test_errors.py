"""The error tree: bases, attributes, and the way between processes."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from uuid import UUID

import pytest

from celers import errors
from celers.errors import (
    BrokerConnectionError,
    BrokerError,
    CelersError,
    CircuitBreakerOpenError,
    ConfigurationError,
    CyclicDependencyError,
    DeserializationError,
    DuplicateGroupError,
    DuplicateTaskError,
    GroupNotFoundError,
    InvalidStateTransitionError,
    MigrationError,
    PayloadTooLargeError,
    PoolTimeoutError,
    QueueDrainingError,
    QueueFullError,
    SerializationError,
    StaleReceiptError,
    TaskNotFoundError,
    ValidationError,
    WorkerNotFoundError,
    WorkflowNotFoundError,
)

ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")

TREE = [
    pytest.param(error, bases, marks=pytest.mark.spec(spec), id=error.__name__)
    for error, bases, spec in [
        (ValidationError, (CelersError, ValueError), "ERR-01"),
        (PayloadTooLargeError, (ValidationError,), "ERR-02"),
        (ConfigurationError, (CelersError,), "ERR-03"),
        (SerializationError, (CelersError,), "ERR-04"),
        (DeserializationError, (CelersError,), "ERR-04"),
        (BrokerError, (CelersError,), "ERR-05"),
        (BrokerConnectionError, (BrokerError,), "ERR-06"),
        (PoolTimeoutError, (BrokerError,), "ERR-07"),
        (MigrationError, (BrokerError,), "ERR-08"),
        (TaskNotFoundError, (CelersError, LookupError), "ERR-09"),
        (GroupNotFoundError, (TaskNotFoundError,), "ERR-10"),
        (WorkflowNotFoundError, (TaskNotFoundError,), "ERR-10"),
        (WorkerNotFoundError, (TaskNotFoundError,), "ERR-10"),
        (DuplicateTaskError, (CelersError,), "ERR-11"),
        (DuplicateGroupError, (DuplicateTaskError,), "ERR-12"),
        (InvalidStateTransitionError, (CelersError,), "ERR-13"),
        (StaleReceiptError, (InvalidStateTransitionError,), "ERR-14"),
        (QueueFullError, (CelersError,), "ERR-15"),
        (QueueDrainingError, (CelersError,), "ERR-16"),
        (CircuitBreakerOpenError, (CelersError,), "ERR-17"),
        (CyclicDependencyError, (ValidationError,), "ERR-18"),
    ]
]

FILLED = [
    ValidationError("bad", parameter="limit"),
    PayloadTooLargeError("big", size=10, limit=5, parameter="payload"),
    CyclicDependencyError("a cycle", cycle=("a", "b", "a"), parameter="dependencies"),
    BrokerError("server", errno=1064, outcome_unknown=True),
    MigrationError("failed", version="001", statement=7, errno=1050),
    TaskNotFoundError("gone", task_id=ID),
    GroupNotFoundError("gone", group_id="g"),
    WorkflowNotFoundError("gone", workflow_id=ID),
    WorkerNotFoundError("gone", worker_id="w"),
    DuplicateTaskError("twice", task_id=ID),
    DuplicateGroupError("twice", group_id="g"),
    StaleReceiptError("old", from_state="processing", to_state="completed", task_id=ID),
    QueueFullError("full", limit=3),
    CircuitBreakerOpenError("open", retry_after_secs=1.5),
    ConfigurationError("wrong", retryable=True),
]


@pytest.mark.parametrize(("error", "bases"), TREE)
def test_bases_and_default_message(error: type[CelersError], bases: tuple[type[Exception], ...]) -> None:
    assert error.__bases__ == bases
    assert isinstance(error().retryable, bool)
    assert error().args[0], "an error without a message still says what happened"
    assert str(error("x happened")) == "x happened"


def test_every_class_of_the_module_is_tested() -> None:
    tested = {parameters.values[0] for parameters in TREE} | {CelersError}
    assert tested == {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert {error.__name__ for error in tested} <= set(errors.__all__)


@pytest.mark.parametrize("error", FILLED, ids=lambda error: type(error).__name__)
def test_errors_survive_pickle_and_copy(error: CelersError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert twin.args == error.args
        assert vars(twin) == vars(error)


@pytest.mark.spec("ERR-05", "ERR-06", "ERR-07", "ARCH-05")
@pytest.mark.parametrize("errno", [1205, 1213, 1020, 1317, 1969, 3024, 3101, 2006, 2013])
def test_a_broker_error_with_a_passing_cause_is_retryable(errno: int) -> None:
    assert BrokerError("x", errno=errno).retryable
    assert not BrokerError("x", errno=errno, retryable=False).retryable


@pytest.mark.spec("ERR-05", "ERR-06", "ERR-07")
def test_retryable_by_class() -> None:
    assert not BrokerError("x").retryable
    assert not BrokerError("x", errno=1064).retryable
    assert BrokerError("x").errno is None
    assert not BrokerError("x").outcome_unknown
    assert BrokerConnectionError("x").retryable
    assert PoolTimeoutError("x").retryable
    assert not ValidationError("x").retryable


@pytest.mark.spec("ERR-08", "ERR-13", "ERR-17")
def test_attributes() -> None:
    failed = MigrationError("x", version="001", statement=7)
    assert (failed.version, failed.statement) == ("001", 7)
    wrong = InvalidStateTransitionError("x", from_state="completed", to_state="pending")
    assert (wrong.from_state, wrong.to_state) == ("completed", "pending")
    assert CircuitBreakerOpenError("x", retry_after_secs=2.5).retry_after_secs == 2.5
    assert CyclicDependencyError("x", cycle=[ID, ID]).cycle == (str(ID), str(ID))


def test_the_module_is_a_leaf() -> None:
    """Importing the errors must not pull in anything else of the package."""
    code = "import sys, celers.errors; print([m for m in sys.modules if m.startswith('celers.')])"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "['celers.errors']"
