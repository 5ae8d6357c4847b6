"""Hooks: functions of the user that run before and after a task is enqueued, delivered, acknowledged or rejected.

They are ordinary functions and run where the broker runs: on the caller's thread, on asyncio in the event loop. What a
hook before the change raises stops it and reaches the caller as it is; what one after it raises is logged.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from celers.errors import ValidationError
from celers.model.enums import TaskHook
from celers.model.hooks import HookContext
from celers.model.task import SerializedTask

if TYPE_CHECKING:
    from celers.components.base import Component
    from celers.core import Core

__all__ = ["HookFn", "TaskHooks", "after", "before", "before_enqueue", "enqueued", "hooked_enqueue", "later"]

logger = logging.getLogger("celers.hooks")

HookFn: TypeAlias = "Callable[[HookContext, SerializedTask | None], SerializedTask | None]"
"""A hook: gets the context and, where there is one, the task. Before an enqueue it may return another task."""

About: TypeAlias = "tuple[UUID | None, SerializedTask | None, dict[str, Any]]"
"""What one call of a hook is about: the task's id, the task if it is there, and the context's metadata."""


class TaskHooks:
    """Registered hooks by point, in the order of their registration; safe to share between threads."""

    __slots__ = ("_hooks", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Replaced and never changed, so that a running operation goes on with what it has read.
        self._hooks: dict[TaskHook, tuple[HookFn, ...]] = {}

    def add(self, hook: TaskHook, fn: HookFn) -> None:
        """Register a function at a point.

        Raises
        ------
        ValidationError
            No `TaskHook`, no callable, or a coroutine function, which nobody would await.
        """
        if not isinstance(hook, TaskHook):
            raise ValidationError(f"hook={hook!r} must be a TaskHook", parameter="hook")
        if not callable(fn):
            raise ValidationError(f"fn must be callable, not {type(fn).__name__}", parameter="fn")
        if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004
            raise ValidationError("fn must not be a coroutine function: hooks are called, not awaited", parameter="fn")
        with self._lock:
            self._hooks = {**self._hooks, hook: (*self._hooks.get(hook, ()), fn)}

    def clear(self) -> None:
        """Forget all hooks."""
        with self._lock:
            self._hooks = {}

    def registered(self, hook: TaskHook) -> tuple[HookFn, ...]:
        """Return the functions of a point."""
        return self._hooks.get(hook, ())

    def any(self, *hooks: TaskHook) -> bool:
        """Is there a function at one of these points?"""
        found = self._hooks
        return bool(found) and any(hook in found for hook in hooks)

    @property
    def is_empty(self) -> bool:
        """Is nothing registered?"""
        return not self._hooks


def _context(core: Core, hook: TaskHook, task_id: UUID | None, metadata: dict[str, Any]) -> HookContext:
    return HookContext(hook, core.queue_name, task_id, datetime.now(UTC), metadata)


def before_enqueue(core: Core, task: SerializedTask) -> SerializedTask:
    """Run the hooks before an enqueue; return the task to store.

    Raises
    ------
    ValidationError
        A hook returned something else than a task, or one with another id.
    """
    for fn in core.hooks.registered(TaskHook.BEFORE_ENQUEUE):
        context = _context(core, TaskHook.BEFORE_ENQUEUE, task.metadata.id, {"task_name": task.metadata.name})
        other = fn(context, task)
        if other is None:
            continue
        if not isinstance(other, SerializedTask) or other.metadata.id != task.metadata.id:
            raise ValidationError(
                f"a hook before the enqueue of task {task.metadata.id} must return None or a task with the same id",
                parameter="hook",
            )
        task = other
    return task


def before(core: Core, hook: TaskHook, things: Iterable[About]) -> None:
    """Run the hooks of a point before a change, for each thing."""
    functions = core.hooks.registered(hook)
    if functions:
        for task_id, task, metadata in things:
            for fn in functions:
                fn(_context(core, hook, task_id, metadata), task)


def after(core: Core, hook: TaskHook, things: Iterable[About]) -> None:
    """Run the hooks of a point after a change; what they raise is logged, because the change stands."""
    functions = core.hooks.registered(hook)
    if functions:
        for task_id, task, metadata in things:
            for fn in functions:
                try:
                    fn(_context(core, hook, task_id, metadata), task)
                except Exception:
                    logger.exception("a hook %s of task %s failed", hook.value, task_id)


def later(component: Component[Any], hook: TaskHook, things: Sequence[About]) -> None:
    """Run hooks of a point after the commit: now, or when the transaction around it ends well.

    On a connection of the caller nobody learns of the commit, so that they do not run.
    """
    core = component.core
    if not things or not core.hooks.any(hook):
        return
    if not component.inside:
        after(core, hook, things)
        return
    transaction = getattr(component.runner, "transaction", None)
    if transaction is not None:
        transaction.after_commit(lambda: after(core, hook, things))


def enqueued(task: SerializedTask) -> About:
    """Return what a call after the enqueue of a task is about."""
    return task.metadata.id, task, {"task_name": task.metadata.name}


def _substitute(
    core: Core, parameter: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], list[SerializedTask]]:
    """Run the hooks before an enqueue on the tasks among the arguments, which are replaced by what is to be stored."""
    given = args[0] if args else kwargs.get(parameter)
    several = parameter == "tasks"
    if several:
        given = list(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else given
    tasks = given if several else [given]
    if not isinstance(tasks, list) or not all(isinstance(task, SerializedTask) for task in tasks):
        return args, kwargs, []  # the operation says what is wrong
    stored = [before_enqueue(core, task) for task in tasks]
    value = stored if several else stored[0]
    if args:
        return (value, *args[1:]), kwargs, stored
    return args, {**kwargs, parameter: value}, stored


def hooked_enqueue(bound: Any, component: Component[Any], parameter: str) -> Any:
    """Put the hooks of an enqueue around an operation; once per call, however often the operation begins anew."""
    core = component.core

    def done(kwargs: dict[str, Any], tasks: list[SerializedTask]) -> None:
        if kwargs.get("connection") is None:
            later(component, TaskHook.AFTER_ENQUEUE, [enqueued(task) for task in tasks])

    if component.runner.is_async:

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            if core.hooks.is_empty:
                return await bound(*args, **kwargs)
            args, kwargs, tasks = _substitute(core, parameter, args, kwargs)
            result = await bound(*args, **kwargs)
            done(kwargs, tasks)
            return result

        return call_async

    def call(*args: Any, **kwargs: Any) -> Any:
        if core.hooks.is_empty:
            return bound(*args, **kwargs)
        args, kwargs, tasks = _substitute(core, parameter, args, kwargs)
        result = bound(*args, **kwargs)
        done(kwargs, tasks)
        return result

    return call
