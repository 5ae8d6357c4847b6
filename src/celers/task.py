"""Tasks of an application: functions that can be called here or enqueued to run elsewhere."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from celers import validate
from celers.errors import ConfigurationError, ValidationError
from celers.model.base import Duration
from celers.retry import RetryPolicy, RetryStrategy
from celers.submission import CallOptions, Submission

if TYPE_CHECKING:
    from celers.app import App

__all__ = ["Task", "task_name"]

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_MAX_RETRIES = 3


class Task(Submission[P, R]):
    """A function registered with an application by `App.task`.

    Calling it runs the function here and now. `enqueue` and its kin store the call for the workers.

    Attributes
    ----------
    app : App
    name : str
        Name under which workers find it.
    fn : callable
        The function itself.
    queue : str
    priority, max_retries : int
    retry_policy : RetryPolicy or None
    timeout_secs : int or None
    ignore_result : bool
    is_async : bool
        Whether the function is a coroutine function.
    """

    def __init__(
        self,
        app: App,
        fn: Callable[P, R],
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int = 0,
        max_retries: int | None = None,
        retry: RetryPolicy | RetryStrategy | None = None,
        timeout: Duration | None = None,
        ignore_result: bool = False,
    ) -> None:
        if not callable(fn):
            raise ConfigurationError(f"a task must be a function, not {type(fn).__name__}")
        # First, because it copies the function's attributes, which may have any names.
        functools.update_wrapper(self, fn)
        super().__init__(self, CallOptions())
        self.app = app
        self.fn = fn
        self.name = validate.name(task_name(fn) if name is None else name, "name")
        self.queue = app.default_queue if queue is None else validate.name(queue, "queue")
        self.priority = validate.priority(priority)
        self.retry_policy = _policy(retry, max_retries)
        self.max_retries = (
            self.retry_policy.max_retries
            if self.retry_policy is not None
            else validate.max_retries(DEFAULT_MAX_RETRIES if max_retries is None else max_retries)
        )
        self.timeout_secs = validate.timeout_secs(timeout)
        self.ignore_result = validate.boolean(ignore_result, "ignore_result")
        self.is_async = inspect.iscoroutinefunction(fn)
        self._signature, self._plain = _signature(fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here."""
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        """Name the task."""
        return f"<Task {self.name}>"

    def __reduce__(self) -> str:
        """Pickle by name, as functions do."""
        return self.fn.__qualname__

    def check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise the `TypeError` that a call with these arguments would raise: here, not in the worker."""
        plain = self._plain
        if plain is not None and not kwargs and plain[0] <= len(args) <= plain[1]:
            return
        if self._signature is not None:
            try:
                self._signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{self.name}: {error}") from None


def _policy(retry: object, max_retries: int | None) -> RetryPolicy | None:
    if retry is None:
        return None
    if isinstance(retry, RetryStrategy):
        return RetryPolicy(DEFAULT_MAX_RETRIES if max_retries is None else max_retries, retry)
    if isinstance(retry, RetryPolicy):
        if max_retries is not None and max_retries != retry.max_retries:
            raise ValidationError(
                f"max_retries={max_retries} contradicts the retry policy, which says {retry.max_retries}",
                parameter="max_retries",
            )
        return retry
    raise ValidationError(
        f"retry must be a RetryPolicy or a RetryStrategy, not {type(retry).__name__}", parameter="retry"
    )


def _signature(fn: Callable[..., Any]) -> tuple[inspect.Signature | None, tuple[int, int] | None]:
    """Return the signature, and for functions of plain parameters how many values they take by position."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some functions written in C tell nothing
        return None, None
    least = most = 0
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            return signature, None
        most += 1
        least += parameter.default is parameter.empty
    return signature, (least, most)


def task_name(fn: Callable[..., Any]) -> str:
    """Return the name of a function as other processes know it: ``module.qualname``.

    In a program's main module the name under which it can be imported takes the place of ``__main__``.
    """
    module = getattr(fn, "__module__", None) or "__main__"
    if module == "__main__":
        main = sys.modules.get("__main__")
        spec = getattr(main, "__spec__", None)
        file = getattr(main, "__file__", None)
        if spec is not None and spec.name:
            module = spec.name
        elif file:
            module = Path(file).stem
    return f"{module}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"
