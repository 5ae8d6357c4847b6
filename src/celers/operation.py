"""Operations: what to ask the server, written once, without I/O.

Theory of operation
-------------------
A component's method decides *which statements* answer a call. It is a generator: it yields a `Packet` of one or more
statements and receives the list of their results. It never touches a connection. A runner (`celers.db.runner` for
blocking code, `celers.db.aio` for asyncio) interprets the generator: it takes a connection, adds START TRANSACTION
and COMMIT, maps errors, repeats what may be repeated, and gives the connection back.

Because of that

- one definition serves `MysqlBroker` and `AsyncMysqlBroker`, the component's name and the flat name;
- a unit test can step through an operation by hand, with no server and no mock;
- a runner may start a generator anew after a deadlock. Code between two yields therefore has no effect outside the
  generator, except in ``try ... finally`` pairs.

A packet with ``commit=True`` ends its transaction in the same round trip; a packet yielded after it opens another.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Self,
    TypeAlias,
    TypeVar,
    cast,
    overload,
)

from celers.errors import CelersError
from celers.hooks import hooked_enqueue

if TYPE_CHECKING:
    from celers.components.base import Component
    from celers.db.driver import Result

__all__ = [
    "Async",
    "Method",
    "Once",
    "Operation",
    "Packet",
    "QueueUnknown",
    "Restart",
    "Steps",
    "Stream",
    "Sync",
    "Undo",
    "operation",
    "paired",
    "repeatable",
    "streamed",
]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
A = TypeVar("A")

Steps: TypeAlias = "Generator[Packet, list[Result], R]"
"""The type of an operation's generator; `R` is what the operation returns."""


class Sync:
    """Type-level mark of components that block."""


class Async:
    """Type-level mark of components whose operations are coroutines."""


class Packet:
    """Statements that travel together and answer together.

    Parameters
    ----------
    *statements : bytes
        Complete statements without the separating semicolons.
    commit : bool
        End the transaction with this packet.
    errors : mapping of (statement index, errno) to a factory of an exception
        What a certain error of a certain statement means. It is thrown into the generator in place of `BrokerError`.
    repeat : bool
        To send it twice does no harm: when its outcome is unknown it is sent again, or the operation begins anew when
        the transaction was open before, and nobody hears of it.
    after : sequence of bytes
        Statements to send behind the COMMIT. What they answer is ignored and an error of theirs means nothing.
    quiet : bool
        Do not ring idle consumers, although tasks are placed.
    """

    __slots__ = ("after", "commit", "errors", "quiet", "repeat", "statements")

    def __init__(
        self,
        *statements: bytes,
        commit: bool = False,
        errors: Mapping[tuple[int, int], Callable[[], CelersError]] | None = None,
        repeat: bool = False,
        after: Sequence[bytes] = (),
        quiet: bool = False,
    ) -> None:
        self.statements = statements
        self.after = after
        self.quiet = quiet
        self.commit = commit
        self.errors = errors
        self.repeat = repeat


class Undo(Packet):
    """Not sent: what the open transaction did is rolled back, and a moment goes by, before a part is begun anew.

    Parameters
    ----------
    attempt : int
        How often the part was begun before; the pause doubles with it.
    """

    __slots__ = ("attempt",)

    def __init__(self, attempt: int) -> None:
        super().__init__()
        self.attempt = attempt


class Once(Generic[R]):
    """An operation of one packet, ready to be sent as it is.

    Most calls of a producer are of this kind and go well. Such a packet is sent before anything of the machinery
    around it has begun (`run_once` of the runners), which only takes over when it fails.

    Attributes
    ----------
    text : bytes
        The whole packet, from START TRANSACTION to COMMIT and the ring behind it; its results say nothing.
    count : int
        Its statements.
    needed : int or None
        Those behind the first `needed` may fail.
    result
        What the operation returns when the packet has succeeded.
    again : callable
        Makes the generator of the same operation; its first packet is this one.
    """

    __slots__ = ("again", "count", "needed", "result", "text")

    def __init__(
        self, text: bytes, count: int, needed: int | None, result: R, again: Callable[[], Steps[object]]
    ) -> None:
        self.text = text
        self.count = count
        self.needed = needed
        self.result = result
        self.again = again


class QueueUnknown(Exception):
    """The queue's number was needed before it had been asked for; runners ask and begin again.

    Asking only then lets an operation check its parameters before anything is sent.
    """


class Restart(Exception):
    """Raised by an operation that saw the rows change between its look and its lock: roll back and begin again.

    An operation of several transactions catches it with `celers.components.parts`, so that only the part begins again.
    """


Kind: TypeAlias = Literal["read", "transaction", "plain"]


def repeatable(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Take iterators among the arguments as lists: an operation may begin anew, and they give their values once."""
    for at, value in enumerate(args):
        if hasattr(value, "__next__"):
            args = (*args[:at], list(value), *args[at + 1 :])
    for name, value in kwargs.items():
        # A cursor given as the connection is an iterator too, and is refused later.
        if hasattr(value, "__next__") and name != "connection":
            kwargs = {**kwargs, name: list(value)}
    return args, kwargs


class Method(Generic[P, S, A]):
    """Descriptor of a component's method that is called with `P` and gives `S` on a blocking broker, `A` on asyncio."""

    def __init__(self, steps: Callable[Concatenate[Any, P], Any]) -> None:
        self.steps = steps
        self.name = steps.__name__
        self.owner: type[Component[Any]] | None = None
        functools.update_wrapper(cast(Any, self), steps)

    def __set_name__(self, owner: type[Component[Any]], name: str) -> None:
        self.owner = owner
        self.name = name

    @overload
    def __get__(self, obj: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self, obj: Component[Sync], owner: type, /) -> Callable[P, S]: ...
    @overload
    def __get__(self, obj: Component[Async], owner: type, /) -> Callable[P, A]: ...
    def __get__(self, obj: Any, owner: type, /) -> Any:
        if obj is None:
            return self
        bound = self._bind(obj)
        functools.update_wrapper(bound, self.steps)
        signature = inspect.signature(self.steps)
        parameters = list(signature.parameters.values())[1:]
        bound.__signature__ = signature.replace(parameters=parameters, return_annotation=_returned(self.steps))
        # Kept on the instance, so that the descriptor is asked once per component.
        obj.__dict__[self.name] = bound
        return bound

    def _bind(self, obj: Component[Any]) -> Any:
        raise NotImplementedError


class Operation(Method[P, R, Coroutine[Any, Any, R]], Generic[P, R]):
    """Descriptor of a component's method; binds to the component's runner.

    Attributes
    ----------
    steps : callable
        The generator function itself, for tests and for use inside other operations.
    """

    steps: Callable[Concatenate[Any, P], Steps[R]]

    def __init__(
        self,
        steps: Callable[Concatenate[Any, P], Steps[R]],
        kind: Kind,
        repeat_unknown: bool,
        give_back: str | None,
        needs_queue: bool,
        slow: bool,
        single: bool = False,
        meter: str | None = None,
        enqueues: str | None = None,
        once: str | None = None,
    ) -> None:
        super().__init__(steps)
        self.kind: Kind = kind
        self.repeat_unknown = repeat_unknown
        self.give_back = give_back
        self.needs_queue = needs_queue
        self.slow = slow
        self.single = single
        self.meter = meter
        self.enqueues = enqueues
        self.once = once

    def _bind(self, obj: Component[Any]) -> Any:
        bound = obj.runner.bind(self, obj)
        return bound if self.enqueues is None else hooked_enqueue(bound, obj, self.enqueues)


class _Paired(Operation[P, R]):
    """An operation that asks the runner and not the server, so that it has a form of its own for each broker."""

    def __init__(
        self,
        blocking: Callable[Concatenate[Any, P], R],
        coroutine: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
    ) -> None:
        super().__init__(cast(Any, blocking), "plain", False, None, False, False)
        self._forms = (blocking, coroutine)

    def _bind(self, obj: Component[Any]) -> Any:
        blocking, coroutine = self._forms
        if obj.runner.is_async:

            async def call_async(*args: Any, **kwargs: Any) -> Any:
                return await coroutine(obj, *args, **kwargs)

            return call_async

        def call(*args: Any, **kwargs: Any) -> Any:
            return blocking(obj, *args, **kwargs)

        return call


def paired(
    blocking: Callable[Concatenate[Any, P], R], coroutine: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]
) -> Operation[P, R]:
    """Make an operation of two functions, one for each kind of broker; for what the connection pool has to do."""
    return _Paired(blocking, coroutine)


def _returned(steps: Callable[..., Any]) -> Any:
    """The type of the result, out of the annotation ``Steps[...]``."""
    text = steps.__annotations__.get("return", "")
    if isinstance(text, str) and text.startswith("Steps[") and text.endswith("]"):
        return text[len("Steps[") : -1]
    return text


def operation(
    kind: Kind = "transaction",
    *,
    repeat_unknown: bool = False,
    give_back: str | None = None,
    needs_queue: bool = True,
    slow: bool = False,
    single: bool = False,
    meter: str | None = None,
    enqueues: str | None = None,
    once: str | None = None,
) -> Callable[[Callable[Concatenate[Any, P], Steps[R]]], Operation[P, R]]:
    """Make a generator method an operation.

    Parameters
    ----------
    kind : {"transaction", "read", "plain"}
        ``transaction``: all packets run in transactions of this operation. ``read``: statements that change nothing,
        repeated after a lost connection. ``plain``: statements that commit by themselves, such as DDL.
    repeat_unknown : bool
        Starting anew is harmless when the outcome of a commit is unknown. Otherwise the error reaches the generator,
        and the caller when the generator does not handle it.
    give_back : str, optional
        Name of an operation of the same component that undoes the result when an asyncio caller was cancelled.
    needs_queue : bool
        The operation uses the queue's number, so the queue has to be known to the database first.
    slow : bool
        Statements that may take minutes, such as DDL: they run on a connection of their own.
    single : bool
        A text of the caller becomes part of a statement: it runs on a connection of its own that refuses packets of
        several statements, so each packet must hold one and the kind must be ``plain``.
    meter : str, optional
        Name of the meter in `Core.meters` that gets the duration of each call.
    enqueues : {"task", "tasks"}, optional
        Name of the first parameter, whose tasks get the hooks of an enqueue.
    once : str, optional
        Name of a method that takes the same arguments and returns a `Once`, or None when this call needs more.
    """

    def wrap(steps: Callable[Concatenate[Any, P], Steps[R]]) -> Operation[P, R]:
        return Operation(
            steps, kind, repeat_unknown, give_back, needs_queue, slow or single, single, meter, enqueues, once
        )

    return wrap


class Stream(Method[P, Iterator[R], AsyncIterator[R]], Generic[P, R]):
    """Descriptor of a component's method that gives its values one by one: an iterator or an asyncio iterator.

    Attributes
    ----------
    steps : callable
        The generator function: it yields packets, and lists of the values that are ready. All packets run on one
        connection of their own, statement by statement as they are; nothing is repeated.
    """

    steps: Callable[Concatenate[Any, P], Generator[Packet | list[R], Any, None]]

    def _bind(self, obj: Component[Any]) -> Any:
        return obj.runner.bind_stream(self, obj)


def streamed(steps: Callable[Concatenate[Any, P], Generator[Packet | list[R], Any, None]]) -> Stream[P, R]:
    """Make a generator method a stream of values."""
    return Stream(steps)
