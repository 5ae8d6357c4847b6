"""The application: a registry of tasks and the way to their database."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload
from weakref import WeakKeyDictionary

from celers import payload, validate
from celers.db.url import parse_url
from celers.errors import ConfigurationError
from celers.model.base import Duration, TaskIdLike
from celers.retry import RetryPolicy, RetryStrategy
from celers.task import Task

if TYPE_CHECKING:
    from celers.aio import AsyncMysqlBroker
    from celers.broker import MysqlBroker
    from celers.model.config import PoolConfig
    from celers.model.result import TaskResult

__all__ = ["DEFAULT_URL", "App", "load_app"]

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_URL = "mysql+embedded:///"
URL_VARIABLE = "CELERS_URL"

_log = logging.getLogger("celers.app")
_warned = False


class App:
    """Tasks, and the database through which they reach the workers.

    Making one does no I/O: the database is connected to when the first task is enqueued.

    Parameters
    ----------
    url : str, optional
        Database URL. Without one the variable ``CELERS_URL`` counts, then the embedded server in its default
        directory, with a warning.
    default_queue : str
        Queue of tasks that name none.
    serializer : {"json", "msgpack", "pickle"}
        Format of the arguments that this application writes.
    accept : sequence of str, optional
        Formats that its workers read: JSON and the serializer when None, but pickle only when it is named here,
        because whoever can write to the queue could run any code in the workers.
    table_prefix : str
        First part of the names of all tables.
    pool_config : PoolConfig, optional
        Limits of the connection pool.
    compress_payloads : bool
        Store arguments compressed.
    record_history : bool
        Write a row for each change of a task's state, by producers and workers; see `MysqlBroker`.
    wake_up : bool
        Wake idle workers when tasks are enqueued; see `MysqlBroker`. False on the side of the producers alone makes
        workers find tasks up to half a minute late: switch it off for both.
    """

    _pid: int
    _lock: threading.Lock
    _first: MysqlBroker | None
    _brokers: dict[str, MysqlBroker]
    _async_brokers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Future[AsyncMysqlBroker]]]

    def __init__(
        self,
        url: str | None = None,
        *,
        default_queue: str = "default",
        serializer: str = "json",
        accept: Sequence[str] | None = None,
        table_prefix: str = "celers_",
        pool_config: PoolConfig | None = None,
        compress_payloads: bool = False,
        record_history: bool = False,
        wake_up: bool = True,
    ) -> None:
        if url is not None:
            parse_url(url)
        self.url = url
        self.default_queue = validate.name(default_queue, "default_queue")
        self.encode = payload.encoder(serializer)
        self.serializer = serializer
        if accept is None:
            accept = ("json",) if serializer == "pickle" else ("json", serializer)
        self.accept = payload.accepted_formats(accept)
        self.broker_options: Mapping[str, Any] = MappingProxyType(
            {"table_prefix": validate.table_prefix(table_prefix), "pool_config": pool_config}
            | ({"compress_payloads": True} if compress_payloads else {})
            | ({"record_history": True} if validate.boolean(record_history, "record_history") else {})
            | ({} if validate.boolean(wake_up, "wake_up") else {"wake_up": False})
        )
        self._tasks: dict[str, Task[..., Any]] = {}
        self._forget_brokers()

    # Tasks

    @property
    def tasks(self) -> Mapping[str, Task[..., Any]]:
        """The registered tasks by name."""
        return MappingProxyType(self._tasks)

    @overload
    def task(self, fn: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int = 0,
        max_retries: int | None = None,
        retry: RetryPolicy | RetryStrategy | None = None,
        timeout: Duration | None = None,
        ignore_result: bool = False,
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...
    def task(
        self,
        fn: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int = 0,
        max_retries: int | None = None,
        retry: RetryPolicy | RetryStrategy | None = None,
        timeout: Duration | None = None,
        ignore_result: bool = False,
    ) -> Any:
        """Make a function a task; with or without arguments, as a decorator.

        Parameters
        ----------
        name : str, optional
            Name in the database; ``module.qualname`` by default.
        queue : str, optional
            The application's default queue when None.
        priority : int
            Higher first.
        max_retries : int, optional
            How often a failed run is repeated, 0 to 1000; 3 when None.
        retry : RetryPolicy or RetryStrategy, optional
            How long to wait before each repetition; 2, 4, 8 ... 3600 s when None.
        timeout : timedelta, int or float, optional
            Limit of the run time; rounded up to whole seconds.
        ignore_result : bool
            Store no result.

        Raises
        ------
        ConfigurationError
            Another function has the name.
        """

        def register(function: Callable[..., Any]) -> Task[..., Any]:
            made: Task[..., Any] = Task(
                self,
                function,
                name=name,
                queue=queue,
                priority=priority,
                max_retries=max_retries,
                retry=retry,
                timeout=timeout,
                ignore_result=ignore_result,
            )
            if made.name in self._tasks:
                raise ConfigurationError(f"two tasks have the name {made.name!r}: give one of them another with name=")
            self._tasks[made.name] = made
            return made

        return register if fn is None else register(fn)

    def queues(self) -> tuple[str, ...]:
        """Return the queues that the application's tasks go to, the default one first."""
        return tuple(dict.fromkeys([self.default_queue, *(task.queue for task in self._tasks.values())]))

    # The database

    def resolve_url(self, override: str | None = None) -> str:
        """Return the database's URL: `override`, the application's, ``CELERS_URL``, or the embedded default."""
        global _warned
        found = override or self.url or os.environ.get(URL_VARIABLE)
        if found:
            return found
        if not _warned:
            _warned = True
            _log.warning("no database URL given: using the embedded server (set %s or pass a URL to App)", URL_VARIABLE)
        return DEFAULT_URL

    def connect_to(self, url: str) -> None:
        """Use another database from now on, as a worker with ``--url`` does; open brokers are closed."""
        parse_url(url)
        self.close()
        self.url = url

    @property
    def broker(self) -> MysqlBroker:
        """The broker of the default queue."""
        return self.broker_for(self.default_queue)

    def broker_for(self, queue: str) -> MysqlBroker:
        """Return the broker of a queue; all share one pool, opened by the first use in a process."""
        if self._pid != os.getpid():
            # The parent's connections belong to the parent, and its lock may be held for ever in this copy.
            self._forget_brokers()
        found = self._brokers.get(queue)
        if found is None:
            with self._lock:
                found = self._brokers.get(queue)
                if found is None:
                    first = self._first
                    if first is None:
                        found = self._first = self._open(queue)
                    else:
                        found = first.for_queue(queue)
                    self._brokers[queue] = found
        return found

    def _open(self, queue: str) -> MysqlBroker:
        from celers.broker import MysqlBroker

        url = self.resolve_url()
        broker = MysqlBroker(url, queue, **self.broker_options)
        if parse_url(url).embedded_dir is not None:
            # A server that celers itself has made is kept up to date by it; any other belongs to somebody.
            broker.migrate()
        return broker

    async def async_broker_for(self, queue: str) -> AsyncMysqlBroker:
        """Return the asyncio broker of a queue, for the running event loop."""
        if self._pid != os.getpid():
            self._forget_brokers()
        loop = asyncio.get_running_loop()
        brokers = self._async_brokers.get(loop)
        if brokers is None:
            opening = loop.create_task(self._open_async(queue))
            brokers = self._async_brokers[loop] = {"": opening}
        first = await asyncio.shield(brokers[""])
        found = brokers.get(queue)
        if found is None:
            made: AsyncMysqlBroker = first if first.queue_name == queue else first.for_queue(queue)
            found = brokers[queue] = loop.create_future()
            found.set_result(made)
        return await found

    async def _open_async(self, queue: str) -> AsyncMysqlBroker:
        from celers.aio import AsyncMysqlBroker

        url = self.resolve_url()
        broker = AsyncMysqlBroker(url, queue, **self.broker_options)
        try:
            await broker.open()
            if parse_url(url).embedded_dir is not None:
                await broker.migrate()
        except BaseException:
            # The next call tries again.
            self._async_brokers.pop(asyncio.get_running_loop(), None)
            raise
        return broker

    def result(self, task_id: TaskIdLike, *, queue: str | None = None) -> TaskResult | None:
        """Return the stored result of a task; None when there is none (yet).

        Parameters
        ----------
        queue : str, optional
            Queue of the task; when None, the queues of the application's tasks are asked in turn.
        """
        wanted = validate.task_id(task_id)
        for name in self.queues() if queue is None else (queue,):
            found = self.broker_for(name).get_result(wanted)
            if found is not None:
                return found
        return None

    async def aresult(self, task_id: TaskIdLike, *, queue: str | None = None) -> TaskResult | None:
        """As `result`, for asyncio."""
        wanted = validate.task_id(task_id)
        for name in self.queues() if queue is None else (queue,):
            found = await (await self.async_broker_for(name)).get_result(wanted)
            if found is not None:
                return found
        return None

    def close(self) -> None:
        """Close the connections of the blocking brokers; the next use opens them anew."""
        if self._pid != os.getpid():
            self._forget_brokers()
            return
        with self._lock:
            first, self._first = self._first, None
            self._brokers.clear()
        if first is not None:
            first.close()

    async def aclose(self) -> None:
        """Close the asyncio brokers of the running event loop."""
        brokers = self._async_brokers.pop(asyncio.get_running_loop(), None)
        if brokers is not None:
            first = await brokers[""]
            await first.close()

    def _forget_brokers(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._first = None
        self._brokers = {}
        self._async_brokers = WeakKeyDictionary()


def load_app(place: str) -> App:
    """Import an application.

    Parameters
    ----------
    place : str
        ``module:name``; without a name ``app``. The working directory is importable.

    Raises
    ------
    ConfigurationError
        There is no such module or attribute, or it is no `App`. An error inside the module is raised as it is.
    """
    module_name, _, attribute = place.partition(":")
    attribute = attribute or "app"
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigurationError(f"there is no module {error.name!r} (looked for {place!r})") from None
        raise
    except ValueError:
        raise ConfigurationError(f"{place!r} names no module; write module:name") from None
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, App):
        raise ConfigurationError(f"{place!r} is no celers.App but {type(found).__name__}")
    return found
