"""Random operations on one queue, against a model of it: states, order, retries, dependencies, and all counters."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from celers import DbTaskState, MysqlBroker, SerializedTask
from celers.errors import (
    DuplicateTaskError,
    InvalidStateTransitionError,
    QueueDrainingError,
    StaleReceiptError,
    TaskNotFoundError,
)
from celers.retry import Fixed, RetryPolicy
from tests.fixtures.tables import Tables

PENDING, PROCESSING = DbTaskState.PENDING, DbTaskState.PROCESSING
COMPLETED, FAILED, CANCELLED = DbTaskState.COMPLETED, DbTaskState.FAILED, DbTaskState.CANCELLED
SOURCES = {
    PENDING: {PROCESSING, FAILED, CANCELLED},
    PROCESSING: {PENDING},
    COMPLETED: {PENDING, PROCESSING},
    FAILED: {PENDING, PROCESSING},
    CANCELLED: {PENDING, PROCESSING},
}
LONG = 1000
EXAMPLES = int(os.environ.get("CELERS_EXAMPLES", "30"))
numbers = st.integers(0, 10**6)
brokers = st.sampled_from("ab")


@dataclass
class Model:
    """What a task should be."""

    id: UUID
    number: int
    priority: int
    max_retries: int
    delay: int
    state: DbTaskState = PENDING
    retries: int = 0
    later: bool = False
    old: bool = False
    open: set[UUID] = field(default_factory=set)
    unmet: int = 0
    handle: str | None = None
    message: Any = None
    owner: str = ""

    def pend(self, *, later: bool = False) -> None:
        self.state, self.later, self.old, self.owner, self.unmet = PENDING, later, False, "", 0


class Queue(RuleBasedStateMachine):
    """One queue and two processes that use it."""

    tables: Tables
    url: str

    def __init__(self) -> None:
        super().__init__()
        for (name,) in self.tables.rows("SHOW TABLES LIKE 'celers\\_%'"):
            if not name.endswith(("_migrations", "_view")):
                self.tables.rows(f"DELETE FROM `{name}`")
        self.brokers = {name: MysqlBroker(self.url, heartbeat=False) for name in "ab"}
        self.tasks: dict[UUID, Model] = {}
        self.deliveries: list[tuple[UUID, Any]] = []
        self.letters = 0
        self.count = 0
        self.paused = self.draining = False

    def teardown(self) -> None:
        for broker in self.brokers.values():
            broker.close()

    # The model

    def pick(self, number: int) -> Model:
        return list(self.tasks.values())[number % len(self.tasks)]

    def some(self, picks: list[int]) -> list[Model]:
        return [self.pick(number) for number in picks] if self.tasks else []

    def children(self, parent: UUID) -> list[Model]:
        return [task for task in self.tasks.values() if parent in task.open]

    def completed(self, done: list[Model]) -> None:
        for task in done:
            task.state = COMPLETED
        for task in done:
            for child in self.children(task.id):
                child.open.discard(task.id)
                if child.state is PENDING:
                    child.unmet -= 1
                    child.old = child.old and child.unmet > 0

    def ended(self, roots: list[Model], state: DbTaskState) -> None:
        for task in roots:
            task.state = state
        waiting = list(roots)
        while waiting:
            for child in self.children(waiting.pop().id):
                if child.state is PENDING:
                    child.state = CANCELLED
                    waiting.append(child)

    def buried(self, task: Model) -> None:
        self.ended([task], FAILED)
        del self.tasks[task.id]
        self.letters += 1

    def lost(self, task: Model) -> None:
        """A lost attempt."""
        if task.retries < task.max_retries:
            task.retries += 1
            task.pend()
        else:
            self.buried(task)

    def add(self, task: SerializedTask, delay: int, *, later: bool = False) -> None:
        made = task.metadata
        self.count += 1
        model = Model(made.id, self.count, made.priority, made.max_retries, delay, later=later)
        model.open = {
            parent for parent in made.dependencies if parent in self.tasks and self.tasks[parent].state is not COMPLETED
        }
        model.unmet = len(model.open)
        self.tasks[made.id] = model

    # What a producer does

    def enqueue_with(self, task: SerializedTask, delay: int, later: bool, call: Any) -> None:
        bad = [self.tasks[key].state for key in task.metadata.dependencies if key in self.tasks]
        if self.draining:
            with pytest.raises(QueueDrainingError):
                call(task)
        elif FAILED in bad or CANCELLED in bad:
            with pytest.raises(InvalidStateTransitionError):
                call(task)
        else:
            assert call(task) == task.metadata.id
            self.add(task, delay, later=later)

    @rule(
        by=brokers,
        priority=st.integers(-1, 1),
        retries=st.integers(0, 2),
        delay=st.sampled_from([0, LONG]),
        picks=st.lists(numbers, max_size=2),
    )
    def enqueue(self, by: str, priority: int, retries: int, delay: int, picks: list[int]) -> None:
        parents = {task.id for task in self.some(picks)}
        task = SerializedTask.new("t", priority=priority, max_retries=retries, dependencies=parents)
        policy = RetryPolicy(retries, Fixed(delay))
        self.enqueue_with(task, delay, False, lambda made: self.brokers[by].enqueue_with_retry_policy(made, policy))

    @rule(
        by=brokers, priority=st.integers(-1, 1), after=st.sampled_from([0, LONG]), picks=st.lists(numbers, max_size=1)
    )
    def enqueue_after(self, by: str, priority: int, after: int, picks: list[int]) -> None:
        parents = {task.id for task in self.some(picks)}
        task = SerializedTask.new("t", priority=priority, max_retries=0, dependencies=parents)
        self.enqueue_with(task, 0, bool(after), lambda made: self.brokers[by].enqueue_after(made, after))

    @rule(by=brokers, priorities=st.lists(st.integers(-1, 1), max_size=4), chained=st.booleans())
    def enqueue_batch(self, by: str, priorities: list[int], chained: bool) -> None:
        batch: list[SerializedTask] = []
        for priority in priorities:
            parents = [batch[-1].metadata.id] if chained and batch else []
            batch.append(SerializedTask.new("t", priority=priority, max_retries=0, dependencies=parents))
        if self.draining and batch:
            with pytest.raises(QueueDrainingError):
                self.brokers[by].enqueue_batch(batch)
            return
        assert self.brokers[by].enqueue_batch(batch) == [task.metadata.id for task in batch]
        for task in batch:
            self.add(task, 0)

    @precondition(lambda self: self.tasks and not self.draining)
    @rule(by=brokers, number=numbers)
    def enqueue_again(self, by: str, number: int) -> None:
        again = SerializedTask.new("again", id=self.pick(number).id)
        with pytest.raises(DuplicateTaskError):
            self.brokers[by].enqueue_batch([SerializedTask.new("t"), again])

    # What a consumer does

    @rule(by=brokers, count=st.integers(0, 4), worker=st.sampled_from([None, "w1", "w2"]))
    def dequeue(self, by: str, count: int, worker: str | None) -> None:
        due = [task for task in self.tasks.values() if task.state is PENDING and not task.unmet and not task.later]
        due.sort(key=lambda task: (-task.priority, task.number))
        expected = [] if self.paused else due[:count]
        messages = self.brokers[by].dequeue_batch(count, worker_id=worker)
        assert [message.task_id for message in messages] == [task.id for task in expected]
        for task, message in zip(expected, messages, strict=True):
            assert message.retry_count == task.retries
            task.state, task.handle, task.message, task.owner = PROCESSING, message.receipt_handle, message, by
            self.deliveries.append((task.id, message))

    def settle(self, number: int, checked: bool, call: Any) -> Model | None:
        """Call with a delivery, old or new; return its task when the call had to succeed."""
        task_id, message = self.deliveries[number % len(self.deliveries)]
        task = self.tasks.get(task_id)
        current = task is not None and (not checked or task.handle == message.receipt_handle)
        handle = message.receipt_handle if checked else None
        if task is not None and task.state is PROCESSING and current:
            call(task_id, handle)
            return task
        repeated = checked and current and call.__name__ == "ack" and task is not None and task.state is COMPLETED
        if repeated:
            call(task_id, handle)
        elif task is None:
            with pytest.raises(TaskNotFoundError):
                call(task_id, handle)
        elif checked and task.state in (PENDING, PROCESSING):
            with pytest.raises(StaleReceiptError):
                call(task_id, handle)
        else:
            with pytest.raises(InvalidStateTransitionError) as caught:
                call(task_id, handle)
            assert not isinstance(caught.value, StaleReceiptError)
        return None

    @precondition(lambda self: self.deliveries)
    @rule(by=brokers, number=numbers, checked=st.booleans())
    def ack(self, by: str, number: int, checked: bool) -> None:
        task = self.settle(number, checked, self.brokers[by].ack)
        if task is not None:
            self.completed([task])

    @precondition(lambda self: self.deliveries)
    @rule(by=brokers, number=numbers, checked=st.booleans(), requeue=st.booleans())
    def reject(self, by: str, number: int, checked: bool, requeue: bool) -> None:
        def reject(task_id: UUID, handle: str | None) -> None:
            self.brokers[by].reject(task_id, handle, requeue)

        task = self.settle(number, checked, reject)
        if task is not None:
            self.rejected(task, requeue)

    def rejected(self, task: Model, requeue: bool) -> None:
        if not requeue:
            self.ended([task], FAILED)
        elif task.retries < task.max_retries:
            task.retries += 1
            task.pend(later=bool(task.delay))
        else:
            self.buried(task)

    def valid(self, picks: list[int]) -> tuple[list[Any], list[Model]]:
        """Deliveries, and the tasks of those that are current."""
        chosen = [self.deliveries[number % len(self.deliveries)] for number in picks]
        current: dict[UUID, Model] = {}
        first: dict[UUID, str] = {}
        for task_id, message in chosen:
            task = self.tasks.get(task_id)
            handle = first.setdefault(task_id, message.receipt_handle)
            if task is not None and task.state is PROCESSING and task.handle == handle:
                current[task_id] = task
        return [message for _, message in chosen], list(current.values())

    @precondition(lambda self: self.deliveries)
    @rule(by=brokers, picks=st.lists(numbers, max_size=4))
    def ack_batch(self, by: str, picks: list[int]) -> None:
        messages, current = self.valid(picks)
        repeated = {
            message.task_id
            for message in messages
            if (task := self.tasks.get(message.task_id)) is not None
            and task.state is COMPLETED
            and task.handle == message.receipt_handle
        }
        done = self.brokers[by].ack_batch([(message.task_id, message.receipt_handle) for message in messages])
        assert len(current) <= done <= len(current) + len(repeated)
        self.completed(current)

    @precondition(lambda self: self.deliveries)
    @rule(by=brokers, picks=st.lists(numbers, max_size=4), requeue=st.booleans())
    def reject_batch(self, by: str, picks: list[int], requeue: bool) -> None:
        messages, current = self.valid(picks)
        triples = [(message.task_id, message.receipt_handle, requeue) for message in messages]
        assert self.brokers[by].reject_batch(triples) == len(current)
        for task in current:
            self.rejected(task, requeue)

    @precondition(lambda self: self.deliveries)
    @rule(by=brokers, number=numbers, delay=st.sampled_from([0, LONG]))
    def give_back(self, by: str, number: int, delay: int) -> None:
        messages, current = self.valid([number])
        assert self.brokers[by].consumer.give_back(messages, delay_secs=delay) == len(current)
        for task in current:
            task.pend(later=bool(delay))

    # What an administrator does

    @rule(by=brokers, picks=st.lists(numbers, max_size=4))
    def cancel(self, by: str, picks: list[int]) -> None:
        chosen = {task.id: task for task in self.some(picks) if not task.state.is_terminal}
        assert self.brokers[by].cancel_batch([task.id for task in self.some(picks)]) == len(chosen)
        self.ended(list(chosen.values()), CANCELLED)

    @rule(by=brokers, picks=st.lists(numbers, max_size=5), state=st.sampled_from(DbTaskState))
    def update(self, by: str, picks: list[int], state: DbTaskState) -> None:
        chosen = {task.id: task for task in self.some(picks) if task.state in SOURCES[state]}
        changed = list(chosen.values())
        assert self.brokers[by].update_batch_state([task.id for task in self.some(picks)], state) == len(changed)
        if state is PENDING:
            for task in changed:
                task.pend()
                task.unmet = len(task.open & self.tasks.keys())
        elif state is PROCESSING:
            for task in changed:
                task.state, task.unmet, task.handle, task.owner = PROCESSING, 0, None, by
                task.open.clear()
        elif state is COMPLETED:
            self.completed(changed)
        else:
            self.ended(changed, state)

    @rule(by=brokers)
    def recover(self, by: str) -> None:
        held = [task for task in self.tasks.values() if task.state is PROCESSING]
        assert self.brokers[by].recover_stuck_tasks(1e-6) == len(held)
        for task in held:
            self.lost(task)

    @rule(dead=brokers, by=brokers)
    def rescue(self, dead: str, by: str) -> None:
        held = [task for task in self.tasks.values() if task.state is PROCESSING and task.owner == dead]
        assert self.brokers[by].consumers.rescue(self.brokers[dead].consumers.numbers(), None) == len(held)
        for task in held:
            self.lost(task)

    @rule(name=brokers)
    def restart(self, name: str) -> None:
        """Close one process's broker: consumers that hold nothing are folded into the totals, others stay."""
        held = any(task.state is PROCESSING and task.owner == name for task in self.tasks.values())
        self.brokers[name].close()
        self.brokers[name] = MysqlBroker(self.url, heartbeat=False)
        if held:
            for task in self.tasks.values():
                if task.owner == name:
                    task.owner = "gone"

    @rule(by=brokers)
    def expire(self, by: str) -> None:
        old = [task for task in self.tasks.values() if task.state is PENDING and task.old and not task.unmet]
        assert self.brokers[by].expire_pending_tasks(2 * LONG) == len(old)
        self.ended(old, CANCELLED)

    @rule(by=brokers)
    def pass_time(self, by: str) -> None:
        self.tables.pass_time(5 * LONG)
        for task in self.tasks.values():
            task.later = False
            task.old = task.state is PENDING
        for broker in self.brokers.values():
            broker.core.due_unknown()

    @rule(by=brokers)
    def promote(self, by: str) -> None:
        self.brokers[by].maintenance.promote_due()
        assert self.brokers[by].maintenance.rescue_dead() == 0

    @rule(by=brokers, on=st.booleans())
    def pause(self, by: str, on: bool) -> None:
        (self.brokers[by].pause if on else self.brokers[by].resume)()
        self.paused = on

    @rule(by=brokers, on=st.booleans())
    def drain(self, by: str, on: bool) -> None:
        (self.brokers[by].enable_drain_mode if on else self.brokers[by].disable_drain_mode)()
        self.draining = on

    @precondition(lambda self: len(self.tasks) > 8)
    @rule(by=brokers)
    def purge(self, by: str) -> None:
        assert self.brokers[by].purge_all() == len(self.tasks)
        self.tasks.clear()

    # After each step

    @invariant()
    def stored_as_modelled(self) -> None:
        stored = {
            UUID(bytes=key): (state, retries, unmet)
            for key, state, retries, unmet in self.tables.rows(
                "SELECT id, state, retry_count, IF(state = 'pending', unmet_dependencies, 0) FROM celers_tasks"
            )
        }
        assert stored == {
            task.id: (task.state.value, task.retries, task.unmet if task.state is PENDING else 0)
            for task in self.tasks.values()
        }
        later = {task.id for task in self.tasks.values() if task.state is PENDING and task.later and not task.unmet}
        assert {info.id for info in self.brokers["a"].list_scheduled_tasks(1000, 0)} == later
        assert self.brokers["b"].get_statistics().dlq == self.letters
        self.tables.check(self.brokers["a"])


@pytest.mark.spec(
    "CORE-06", "CORE-07", "CORE-08", "CORE-09", "CORE-10", "CORE-11", "CORE-12", "CORE-15", "BATCH-01", "BATCH-02",
    "BATCH-03", "BATCH-04", "BATCH-05", "BATCH-06", "SCHED-02", "SCHED-03", "SCHED-04", "SCHED-05", "SCHED-06",
    "RETRY-03", "RETRY-05", "CTRL-01", "CTRL-04", "CHAIN-03", "CHAIN-04", "DLQ-01", "MAINT-05", "MAINT-08", "INSP-01",
    "SCHEMA-03",
)  # fmt: skip
def test_the_queue_behaves_as_its_model(tables, database_url):
    machine = type("BoundQueue", (Queue,), {"tables": tables, "url": database_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
