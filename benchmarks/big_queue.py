"""Measure the reads of a dashboard on a big queue: ``python -m benchmarks.big_queue``.

Fills a private server with a million finished tasks, a hundred thousand pending ones and a thousand in the hands of
workers, and prints the median time of each read, without and with the reporting indexes, and the plans on request.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from benchmarks import machine, servers
from celers import DbTaskState, MysqlBroker

NAMES = 20
WORKERS = 10
HELD = 100
LETTERS = 1000
TARGETS_MS: dict[str, tuple[float, float | None]] = {
    "get_statistics": (100, None),
    "list_tasks": (100, None),
    "get_queue_health": (100, None),
    "queue_size": (20, None),
    "count_by_state_quick(pending)": (20, None),
    "count_by_state_quick(processing)": (20, None),
    "count_by_state_quick(completed)": (20, None),
    "count_by_task_name": (1500, 300),
}
"""Longest allowed time without and with the reporting indexes; None where they are the same."""


def numbers(count: int) -> str:
    """A query of the numbers `n` from 0 below a power of ten not below `count`."""
    digits = len(str(count - 1))
    one = "SELECT 0 d " + " ".join(f"UNION ALL SELECT {digit}" for digit in range(1, 10))
    total = " + ".join(f"d{index}.d * {10**index}" for index in range(digits))
    return f"SELECT {total} n FROM " + ", ".join(f"({one}) d{index}" for index in range(digits))


def fill(broker: MysqlBroker, connection: Any, finished: int, pending: int) -> None:
    """Put the tasks into the empty tables of a migrated database, as a broker would have left them."""
    queue = broker.queue.intern()
    held = WORKERS * HELD
    scheduled = pending // 10
    now = "UTC_TIMESTAMP(6)"
    common = "seq, id, queue_id, task_name, payload, state, priority, created_at, scheduled_at, metadata"

    def tasks(first: int, count: int, state: str, columns: str, values: str, due: str, step: int = 100_000) -> None:
        """Insert the tasks `first` to `first + count - 1`; ids are as time-ordered as real ones."""
        for start in range(0, count, step):
            size = min(step, count - start)
            age = f"INTERVAL ({finished + pending + held} - n - {first + start}) SECOND"
            connection.query(
                f"INSERT INTO celers_tasks ({common}{columns}) SELECT n + {first + start},"
                f" UNHEX(CONCAT('0', HEX({first + start} + 1700000000000 + n), '7', LEFT(SHA2(n, 256), 19))),"
                f" {queue}, CONCAT('shop.orders.tasks.job_', LPAD(n MOD {NAMES}, 2, '0')), REPEAT('x', 100), {state},"
                f" n MOD 3, {now} - {age}, {due.format(age=age)}, IF(n MOD 4, NULL, JSON_OBJECT('customer', n))"
                f"{values.format(age=age)} FROM ({numbers(size)}) x WHERE n < {size} ORDER BY n"
            )

    ended = f"{now} - {{age}} + INTERVAL 900000 MICROSECOND"
    tasks(
        1,
        finished,
        "ELT(1 + (n MOD 50 = 0) + 2 * (n MOD 50 = 1), 'completed', 'failed', 'cancelled')",
        ", started_at, completed_at, consumer_no, worker_no, deliveries, retry_count",
        f", {now} - {{age}}, {ended}, 1 + n MOD {WORKERS}, 1 + n MOD {WORKERS}, 1 + (n MOD 40 = 0), n MOD 40 = 0",
        f"{now} - {{age}}",
    )
    tasks(
        finished + 1,
        held,
        "'processing'",
        ", started_at, consumer_no, worker_no, deliveries",
        f", {now}, 1 + n DIV {HELD}, 1 + n DIV {HELD}, 1",
        f"{now} - {{age}}",
    )
    ready = finished + held + 1
    tasks(ready, pending - scheduled, "'pending'", "", "", f"{now} - {{age}}")
    tasks(ready + pending - scheduled, scheduled, "'pending'", "", "", f"{now} + INTERVAL 1 DAY + INTERVAL n SECOND")
    texts = (
        (
            f"INSERT INTO celers_ready SELECT queue_id, -CAST(priority AS SIGNED), seq FROM celers_tasks"
            f" WHERE seq >= {ready} AND seq < {ready + pending - scheduled}"
        ),
        (
            f"INSERT INTO celers_scheduled (due_at, seq, queue_id, sort_rank) SELECT scheduled_at, seq, queue_id,"
            f" -CAST(priority AS SIGNED) FROM celers_tasks WHERE seq >= {ready + pending - scheduled}"
        ),
        (
            f"INSERT INTO celers_workers (worker_id, queue_id, last_heartbeat, status, created_at, updated_at)"
            f" SELECT CONCAT('worker-', n), {queue}, {now}, 'busy', {now}, {now} FROM ({numbers(WORKERS)}) x ORDER BY n"
        ),
        (
            f"INSERT INTO celers_consumers (consumer_no, queue_id, worker_no, lease, lease_secs, heartbeat_at,"
            " started_at)"
            f" SELECT consumer_no, queue_id, worker_no, CONCAT('[[', GROUP_CONCAT(seq), ']]'), 86400, {now}, {now}"
            f" FROM celers_tasks WHERE seq > {finished} AND seq < {ready} GROUP BY consumer_no, queue_id, worker_no"
        ),
        (
            f"INSERT INTO celers_queue_totals (queue_id, completed, failed, cancelled, retried)"
            f" SELECT {queue}, SUM(state = 'completed'), SUM(state = 'failed'), SUM(state = 'cancelled'),"
            f" SUM(retry_count) FROM celers_tasks WHERE seq <= {finished}"
        ),
        (
            "INSERT INTO celers_throughput (queue_id, place, taken_at, completions, failures)"
            f" SELECT {queue}, n, {now} - INTERVAL 5 * (800 - n) SECOND, n * 100, n FROM ({numbers(800)}) x"
            " WHERE n < 800"
        ),
        (
            f"INSERT INTO celers_dead_letter_queue (id, task_id, queue_name, task_name, payload, payload_encoding,"
            f" priority, retry_count, max_retries, failed_at, created_at)"
            " SELECT UNHEX(LEFT(SHA2(n, 256), 32)), UNHEX(LEFT(SHA2(-1 - n, 256), 32)),"
            f" '{broker.queue_name}', CONCAT('job_', n MOD {NAMES}), REPEAT('x', 100), 'raw', 0, 3, 3, {now}, {now}"
            f" FROM ({numbers(LETTERS)}) x WHERE n < {LETTERS}"
        ),
        (
            f"INSERT INTO celers_task_results (task_id, queue_name, task_name, status, result, created_at,"
            f" completed_at, runtime_ms)"
            f" SELECT id, '{broker.queue_name}', task_name, 'SUCCESS', '1', created_at, completed_at, 900"
            f" FROM celers_tasks WHERE seq <= {finished} AND seq > {finished // 10 * 9} AND state = 'completed'"
        ),
        "ANALYZE TABLE celers_tasks, celers_ready, celers_scheduled, celers_dead_letter_queue",
    )
    for text in texts:
        connection.query(text)
        while True:
            result = connection.store_result()
            if result is not None:
                result.fetch_row(0)
            if connection.next_result() == -1:
                break


def reads(broker: MysqlBroker) -> dict[str, Callable[[], Any]]:
    """Return what a dashboard asks, by name; operations that this version does not have are left out."""
    task = broker.list_tasks(None, 1, 0)[0].id
    calls: dict[str, Callable[[], Any]] = {
        "get_statistics": broker.get_statistics,
        "queue_size": broker.queue_size,
        **{
            f"count_by_state_quick({state})": lambda state=state: broker.count_by_state_quick(state)
            for state in DbTaskState
        },
        "count_by_task_name": broker.count_by_task_name,
        "list_tasks": lambda: broker.list_tasks(None, 50, 0),
        **{f"list_tasks({state})": lambda state=state: broker.list_tasks(state, 50, 0) for state in DbTaskState},
        "list_tasks, page 20": lambda: broker.list_tasks(None, 50, 1000),
        "get_task": lambda: broker.get_task(task),
        "list_scheduled_tasks": lambda: broker.list_scheduled_tasks(50, 0),
        "count_scheduled_tasks": broker.count_scheduled_tasks,
        "get_processing_tasks": lambda: broker.get_processing_tasks(50, 0),
        "list_dlq": lambda: broker.list_dlq(50, 0),
        "get_dlq_statistics": broker.get_dlq_statistics,
        "get_all_worker_heartbeats": lambda: broker.get_all_worker_heartbeats(60),
        "list_active_workers": broker.list_active_workers,
        "get_worker_statistics": lambda: broker.get_worker_statistics("worker-3"),
        "get_all_worker_statistics": broker.get_all_worker_statistics,
        "get_tasks_by_worker": lambda: broker.get_tasks_by_worker("worker-3"),
        "get_task_age_distribution": broker.get_task_age_distribution,
        "get_retry_statistics": broker.get_retry_statistics,
        "get_queue_health": broker.get_queue_health,
        "get_task_throughput": broker.get_task_throughput,
    }
    for name, arguments in (
        ("get_performance_metrics", ()),
        ("check_health", ()),
        ("check_connection_health", ()),
        ("is_ready", ()),
        ("get_optimal_batch_size", ()),
        ("get_table_sizes", ()),
        ("get_index_stats", ()),
        ("get_connection_diagnostics", ()),
    ):
        method = getattr(broker, name, None)
        if method is not None:
            calls[name] = lambda method=method, arguments=arguments: method(*arguments)
    return calls


def loop_ms() -> float:
    """Return the processor time in ms of a loop that is always the same: how fast the processor runs now."""
    started = time.thread_time()
    for _ in range(50_000):
        pass
    return (time.thread_time() - started) * 1000


def median_ms(call: Callable[[], Any], rounds: int, longest_secs: float, loops: list[float]) -> float:
    """Return the median time of a call in ms: of `rounds` calls or as many as there is time for.

    A loop of constant work runs after each call; its times are added to `loops`.
    """
    call()
    times: list[float] = []
    ends = time.monotonic() + longest_secs
    while len(times) < rounds and (not times or time.monotonic() < ends):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1000)
        loops.append(loop_ms())
    return statistics.median(times)


@contextlib.contextmanager
def place(url: str | None, kind: str, directory: str | None) -> Iterator[str]:
    """Give the URL of an empty database: of a server of its own, or the one that was named."""
    if url is not None:
        yield url
        return
    with servers.started(kind, directory=directory) as server:
        servers.make_database(server, "celers")
        yield f"mysql://root@localhost/celers?unix_socket={quote(server.config['socket'], safe='/')}"


def prepare(url: str, finished: int, pending: int) -> Any:
    """Fill a database where it is empty, and return the connection that did."""
    from MySQLdb import _mysql

    with MysqlBroker(url, lease_secs=86400) as broker:
        broker.migrate()
        where = broker.options
        raw = _mysql.connect(
            **({"unix_socket": where.unix_socket} if where.unix_socket else {"host": where.host, "port": where.port}),
            user=where.user or "",
            password=where.password or "",
            database=where.database or "",
        )
        raw.query("SET SESSION time_zone='+00:00', SESSION unique_checks=0, SESSION group_concat_max_len=16777216")
        started = time.monotonic()
        if not broker.get_statistics().total:
            fill(broker, raw, finished, pending)
            print(f"  filled in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return raw


def measure(url: str, options: argparse.Namespace) -> tuple[str, dict[str, tuple[float, float | None]]]:
    """Return the server's version and the times of each read in ms."""
    raw = prepare(url, options.finished, options.pending)
    with MysqlBroker(url, lease_secs=86400) as broker:
        broker.migrate(reporting_indexes=False)
        wanted = [name for name in reads(broker) if not options.only or any(part in name for part in options.only)]
        calls = reads(broker)
        loops: list[float] = []
        without = {name: median_ms(calls[name], options.rounds, options.secs, loops) for name in wanted}
        having: dict[str, float] = {}
        if not options.no_indexes:
            broker.migrate(reporting_indexes=True)
            raw.query("ANALYZE TABLE celers_tasks")
            raw.store_result()
            having = {name: median_ms(calls[name], options.rounds, options.secs, loops) for name in wanted}
            broker.migrate(reporting_indexes=False)
        raw.close()
        tenths = statistics.quantiles(loops, n=10)
        print(
            f"  a loop of constant work beside the calls: tenth {tenths[0]:.2f}, median {tenths[4]:.2f},"
            f" ninth tenth {tenths[8]:.2f} ms of processor time",
            file=sys.stderr,
            flush=True,
        )
        return broker.server_version, {name: (without[name], having.get(name)) for name in wanted}


def main() -> int:
    """Measure and print; return 1 when a time is above what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--server", choices=("mariadb", "mysql", "both"), default="both")
    parser.add_argument("--url", help="a database of a running server instead: filled when it is empty")
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--pending", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=11, help="calls of which the median is taken")
    parser.add_argument(
        "--secs", type=float, default=10.0, help="begin no further call of the same read after this time"
    )
    parser.add_argument("--no-indexes", action="store_true", help="leave the reporting indexes out")
    parser.add_argument("--only", action="append", metavar="TEXT", help="reads whose name contains it")
    parser.add_argument("--directory", help="where the servers keep their data")
    options = parser.parse_args()
    found: dict[str, dict[str, tuple[float, float | None]]] = {}
    kinds = ("url",) if options.url else ("mariadb", "mysql") if options.server == "both" else (options.server,)
    for kind in kinds:
        with place(options.url, kind, options.directory) as url:
            version, times = measure(url, options)
            found[version] = times
    facts = machine.describe(options.directory)
    print(
        f"{time.strftime('%Y-%m-%d')}, {facts['processor']}, {facts['cores']} cores, Python {facts['python']}, ", end=""
    )
    print(f"load {facts['load']}; {options.finished:,} finished and {options.pending:,} pending tasks; median in ms,")
    print("without / with the reporting indexes.\n")
    print("| Read | " + " | ".join(found) + " | allowed |")
    print("|---|" + "---:|" * (len(found) + 1))
    late: list[str] = []
    for name in next(iter(found.values())):
        cells = []
        allowed = TARGETS_MS.get(name)
        for times in found.values():
            without, having = times[name]
            cells.append(f"{without:.3g}" + (f" / {having:.3g}" if having is not None else ""))
            if allowed and (without > allowed[0] or (having is not None and having > (allowed[1] or allowed[0]))):
                late.append(name)
        limit = "" if allowed is None else f"{allowed[0]:g}" + (f" / {allowed[1]:g}" if allowed[1] else "")
        print(f"| `{name}` | " + " | ".join(cells) + f" | {limit} |")
    if late:
        print("\nabove what is allowed: " + ", ".join(dict.fromkeys(late)))
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
