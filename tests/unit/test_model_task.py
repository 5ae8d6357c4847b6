"""Tasks, deliveries and listings of tasks."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest

from celers.errors import PayloadTooLargeError, ValidationError
from celers.model.enums import DbTaskState
from celers.model.task import (
    RESERVED_METADATA_KEYS,
    BrokerMessage,
    ScheduledTaskInfo,
    SerializedTask,
    TaskInfo,
    TaskMetadata,
)

ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
OTHER = UUID("01890a5d-ac96-774b-bcce-b302099a8058")
NOW = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)


def metadata(**changes: Any) -> TaskMetadata:
    return TaskMetadata(**{"id": ID, "name": "a.b", "created_at": NOW, "updated_at": NOW} | changes)


def names(record: type) -> list[str]:
    return [field.name for field in dataclasses.fields(record)]


def by_decoder(record: type, **values: Any) -> Any:
    """Make a value as the row decoder does: without the constructor."""
    made = record.__new__(record)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


@pytest.mark.spec("TYPE-01")
class TestTaskMetadata:
    def test_fields_and_defaults(self) -> None:
        assert names(TaskMetadata) == [
            "id",
            "name",
            "created_at",
            "updated_at",
            "max_retries",
            "timeout_secs",
            "priority",
            "group_id",
            "chord_id",
            "parent_task_id",
            "dependencies",
            "extra",
        ]
        made = metadata()
        assert (made.max_retries, made.timeout_secs, made.priority) == (3, None, 0)
        assert (made.group_id, made.chord_id, made.parent_task_id) == (None, None, None)
        assert made.dependencies == frozenset()
        assert made.extra == {}

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("id", "nonsense"),
            ("name", ""),
            ("name", " a"),
            ("name", None),
            ("created_at", NOW.replace(tzinfo=None)),
            ("updated_at", None),
            ("max_retries", -1),
            ("max_retries", 1001),
            ("max_retries", True),
            ("timeout_secs", 0),
            ("timeout_secs", -1),
            ("priority", 2**31),
            ("priority", 1.0),
            ("group_id", ""),
            ("chord_id", "x"),
            ("parent_task_id", 5),
            ("dependencies", [None]),
            ("dependencies", str(ID)),
            ("dependencies", None),
            ("extra", {1: 2}),
            ("extra", [1]),
            ("extra", None),
        ],
    )
    def test_refuses(self, field: str, value: object) -> None:
        with pytest.raises(ValidationError, match=field) as caught:
            metadata(**{field: value})
        assert caught.value.parameter == field

    def test_values_get_their_one_form(self) -> None:
        made = metadata(
            id=str(ID),
            created_at=NOW.astimezone(timezone(timedelta(hours=5))),
            dependencies=[str(OTHER), OTHER],
            chord_id=str(OTHER),
            timeout_secs=1.5,
        )
        assert made.id == ID
        assert made.created_at.tzinfo is UTC
        assert made.dependencies == frozenset({OTHER})
        assert made.chord_id == OTHER
        assert made.timeout_secs == 2

    @pytest.mark.spec("DATA-11")
    def test_reserved_keys_are_ignored(self) -> None:
        reserved = """queue enqueued_at scheduled_for delay_seconds dedup_key group_id chord_id parent_task_id
            dependencies trace_context progress requeued_from recurring_id synthetic load_test_id"""
        assert set(reserved.split()) == RESERVED_METADATA_KEYS
        extra = dict.fromkeys(RESERVED_METADATA_KEYS, "x") | {"customer_id": 7}
        assert metadata(extra=extra).extra == {"customer_id": 7}
        task = SerializedTask.new("a", extra=extra)
        assert task.metadata.extra == {"customer_id": 7}
        assert task.with_metadata(extra | {"b": 1}).metadata.extra == {"customer_id": 7, "b": 1}

    def test_extra_is_a_copy(self) -> None:
        extra = {"a": 1}
        made = metadata(extra=extra)
        extra["a"] = 2
        assert made.extra == {"a": 1}


@pytest.mark.spec("TYPE-02")
class TestSerializedTask:
    def test_new_with_defaults(self) -> None:
        before = datetime.now(UTC)
        task = SerializedTask.new("app.add")
        after = datetime.now(UTC)
        made = task.metadata
        assert names(SerializedTask) == ["metadata", "payload"]
        assert task.payload == b""
        assert made.id.version == 7
        assert before <= made.created_at == made.updated_at <= after
        assert made == TaskMetadata(made.id, "app.add", made.created_at, made.created_at)

    def test_new_with_everything(self) -> None:
        task = SerializedTask.new(
            "a",
            bytearray(b"xyz"),
            id=str(ID),
            priority=-5,
            max_retries=0,
            timeout=timedelta(minutes=1.5),
            group_id="g",
            chord_id=str(OTHER),
            parent_task_id=str(OTHER),
            dependencies=iter([str(OTHER), OTHER]),
            extra={"k": [1, None]},
        )
        made = task.metadata
        assert type(task.payload) is bytes
        assert task.payload == b"xyz"
        assert made == metadata(
            name="a",
            created_at=made.created_at,
            updated_at=made.created_at,
            priority=-5,
            max_retries=0,
            timeout_secs=90,
            group_id="g",
            chord_id=OTHER,
            parent_task_id=OTHER,
            dependencies={OTHER},
            extra={"k": [1, None]},
        )

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", ""),
            ("name", "a\n"),
            ("payload", "text"),
            ("payload", None),
            ("id", "x"),
            ("priority", 2**31),
            ("max_retries", 1001),
            ("timeout", 0),
            ("timeout", "1"),
            ("timeout", 2**32),
            ("group_id", ""),
            ("chord_id", "x"),
            ("parent_task_id", "x"),
            ("dependencies", ["x"]),
            ("dependencies", str(ID)),
            ("dependencies", None),
            ("extra", {1: 2}),
            ("extra", "x"),
        ],
    )
    def test_new_refuses(self, field: str, value: Any) -> None:
        with pytest.raises(ValidationError, match=field) as caught:
            SerializedTask.new(**{"name": "a", field: value})
        assert caught.value.parameter == field

    def test_new_copies_buffers(self) -> None:
        buffer = bytearray(b"abc")
        tasks = [SerializedTask.new("a", buffer), SerializedTask(metadata(), buffer)]  # type: ignore[arg-type]
        buffer[0] = 0
        assert [task.payload for task in tasks] == [b"abc", b"abc"]

    def test_constructor_refuses(self) -> None:
        with pytest.raises(ValidationError, match="metadata"):
            SerializedTask({"id": ID}, b"")  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match="payload"):
            SerializedTask(metadata(), "text")  # type: ignore[arg-type]

    def test_builders_return_changed_copies(self) -> None:
        task = SerializedTask.new("a", b"x", extra={"a": 1})
        changes: list[tuple[SerializedTask, dict[str, Any]]] = [
            (task.with_priority(9), {"priority": 9}),
            (task.with_max_retries(7), {"max_retries": 7}),
            (task.with_timeout(timedelta(seconds=2)), {"timeout_secs": 2}),
            (task.with_timeout(3).with_timeout(None), {"timeout_secs": None}),
            (task.with_group_id("g"), {"group_id": "g"}),
            (task.with_chord_id(str(ID)), {"chord_id": ID}),
            (task.with_chord_id(ID).with_chord_id(None), {"chord_id": None}),
            (task.with_metadata({"b": 2, "a": 3}), {"extra": {"a": 3, "b": 2}}),
        ]
        for changed, values in changes:
            assert changed == SerializedTask(dataclasses.replace(task.metadata, **values), b"x")
        assert task.metadata.extra == {"a": 1}
        for bad in (
            lambda: task.with_priority(2**31),
            lambda: task.with_max_retries(-1),
            lambda: task.with_timeout(0),
        ):
            with pytest.raises(ValidationError):
                bad()
        for bad in (lambda: task.with_group_id(""), lambda: task.with_chord_id("x")):
            with pytest.raises(ValidationError):
                bad()
        with pytest.raises(ValidationError):
            task.with_metadata(None)  # type: ignore[arg-type]

    def test_age_and_expiry(self) -> None:
        now = datetime.now(UTC)
        old = SerializedTask(metadata(created_at=now - timedelta(seconds=100)), b"")
        assert timedelta(seconds=100) <= old.age() < timedelta(seconds=200)
        assert not old.is_expired()
        assert old.with_timeout(50).is_expired()
        assert not old.with_timeout(5000).is_expired()
        ahead = SerializedTask(metadata(created_at=now + timedelta(hours=1), timeout_secs=1), b"")
        assert ahead.age() == timedelta()
        assert not ahead.is_expired()

    def test_validate(self) -> None:
        SerializedTask.new("a", b"x").validate()
        SerializedTask.new("a", bytes(1_048_576)).validate()
        with pytest.raises(PayloadTooLargeError):
            SerializedTask.new("a", bytes(1_048_577)).validate()
        with pytest.raises(PayloadTooLargeError):
            SerializedTask.new("a", b"xx").validate(max_payload_bytes=1)
        with pytest.raises(ValidationError, match="empty"):
            SerializedTask.new("a").validate()
        with pytest.raises(ValidationError, match="max_payload_bytes"):
            SerializedTask.new("a", b"x").validate(-1)
        unnamed = by_decoder(TaskMetadata, name="")
        with pytest.raises(ValidationError, match="name"):
            by_decoder(SerializedTask, metadata=unnamed, payload=b"x").validate()


@pytest.mark.spec("TYPE-03")
class TestBrokerMessage:
    def test_fields_and_properties(self) -> None:
        assert names(BrokerMessage) == ["task", "receipt_handle", "retry_count", "delivered_at", "isolated"]
        task = SerializedTask(metadata(priority=4), b"x")
        message = BrokerMessage(task, "0" * 32, 2, NOW)
        assert (message.task_id, message.task_name, message.priority) == (ID, "a.b", 4)
        assert message.isolated is False

    def test_made_by_the_row_decoder(self) -> None:
        """The decoder skips the constructors, so a value must be its fields and nothing else."""
        values = {name: getattr(metadata(), name) for name in names(TaskMetadata)}
        task = by_decoder(SerializedTask, metadata=by_decoder(TaskMetadata, **values), payload=b"x")
        message = by_decoder(
            BrokerMessage, task=task, receipt_handle="r", retry_count=0, delivered_at=NOW, isolated=True
        )
        assert message == BrokerMessage(SerializedTask(metadata(), b"x"), "r", 0, NOW, True)
        assert hash(message) == hash(BrokerMessage(SerializedTask(metadata(), b"x"), "r", 0, NOW, True))
        assert message.to_dict()["task"]["metadata"]["id"] == str(ID)


@pytest.mark.spec("TYPE-04")
def test_task_info() -> None:
    expected = """id task_name state priority retry_count max_retries created_at scheduled_at started_at
        completed_at worker_id error_message queue_name metadata group_id parent_task_id unmet_dependencies"""
    assert names(TaskInfo) == expected.split()
    info = TaskInfo(ID, "a", DbTaskState.PENDING, 0, 0, 3, NOW, NOW)
    optional = ("started_at", "completed_at", "worker_id", "error_message", "group_id", "parent_task_id")
    assert all(getattr(info, name) is None for name in optional)
    assert info.to_dict()["state"] == "pending"


@pytest.mark.spec("TYPE-05")
def test_scheduled_task_info() -> None:
    expected = "id task_name priority scheduled_at created_at delay_remaining_secs"
    assert names(ScheduledTaskInfo) == expected.split()


def test_to_dict_is_json_ready() -> None:
    task = SerializedTask(
        metadata(group_id="g", chord_id=OTHER, dependencies={OTHER, ID}, extra={"a": [1, {"b": None}]}),
        b"\xff\0",
    )
    message = BrokerMessage(task, "ab", 1, NOW)
    expected = {
        "task": {
            "metadata": {
                "id": str(ID),
                "name": "a.b",
                "created_at": "2026-01-02T03:04:05.678900Z",
                "updated_at": "2026-01-02T03:04:05.678900Z",
                "max_retries": 3,
                "timeout_secs": None,
                "priority": 0,
                "group_id": "g",
                "chord_id": str(OTHER),
                "parent_task_id": None,
                "dependencies": [str(ID), str(OTHER)],
                "extra": {"a": [1, {"b": None}]},
            },
            "payload": "/wA=",
        },
        "receipt_handle": "ab",
        "retry_count": 1,
        "delivered_at": "2026-01-02T03:04:05.678900Z",
        "isolated": False,
    }
    assert message.to_dict() == expected
    assert list(message.to_dict()["task"]["metadata"]) == names(TaskMetadata)
    assert json.loads(json.dumps(message.to_dict())) == expected


def test_values_are_frozen_slotted_hashable_and_picklable() -> None:
    task = SerializedTask.new("a", b"x", dependencies=[uuid4()], extra={"a": [1]})
    message = BrokerMessage(task, "ab", 1, NOW)
    info = TaskInfo(ID, "a", DbTaskState.PENDING, 0, 0, 3, NOW, NOW, metadata={"a": 1})
    for value in (task.metadata, task, message, info, ScheduledTaskInfo(ID, "a", 0, NOW, NOW, 1)):
        assert not hasattr(value, "__dict__")
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, dataclasses.fields(value)[0].name, 5)
        for twin in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
            assert twin == value
            assert hash(twin) == hash(value)
