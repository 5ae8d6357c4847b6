"""What a type checker has to know about tasks. Checked by mypy and pyright, never run.

Lines that must be refused end with an ignore comment; a checker that does not refuse them reports the comment.
"""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type
from uuid import UUID

from celers import App, ExponentialWithJitter, RetryPolicy, TaskResult

app = App()


@app.task
def add(a: int, b: int = 0) -> int:
    return a + b


@app.task(name="mail", queue="mails", priority=3, retry=RetryPolicy(5, ExponentialWithJitter(1, 2.0, 60)))
def mail(address: str, *, subject: str) -> None: ...


@app.task(timeout=timedelta(minutes=1), ignore_result=True)
async def fetch(url: str) -> bytes:
    return url.encode()


assert_type(add(1, 2), int)
assert_type(add.enqueue(1), UUID)
assert_type(add.enqueue(1, b=2), UUID)
assert_type(add.enqueue_at(datetime.now(UTC), 1), UUID)
assert_type(add.enqueue_after(timedelta(seconds=1), 1, 2), UUID)
assert_type(add.enqueue_after(1.5, 1, b=2), UUID)
assert_type(add.enqueue_many([(1,), (2, 3)]), list[UUID])
assert_type(mail.enqueue("a@b", subject="s"), UUID)
assert_type(mail.using(priority=1, delay=3).enqueue("a@b", subject="s"), UUID)
assert_type(app.result(add.enqueue(1)), TaskResult | None)

add.enqueue("1")  # type: ignore[arg-type]
add.enqueue()  # type: ignore[call-arg]
add.enqueue(1, c=2)  # type: ignore[call-arg]
add.enqueue_at(datetime.now(UTC), "1")  # type: ignore[arg-type]
add.enqueue_after(1)  # type: ignore[call-arg]
mail.enqueue("a@b")  # type: ignore[call-arg]
mail.enqueue("a@b", subject=1)  # type: ignore[arg-type]
mail.using(queue="x").enqueue(1, subject="s")  # type: ignore[arg-type]
mail.using(quue="x")  # type: ignore[call-arg]
app.task(priorty=3)  # type: ignore[call-overload]


async def main() -> None:
    call: Coroutine[Any, Any, bytes] = fetch("u")
    assert_type(await call, bytes)
    assert_type(await fetch.aenqueue("u"), UUID)
    assert_type(await fetch.aenqueue_at(1_900_000_000, "u"), UUID)
    assert_type(await fetch.using(queue="q").aenqueue_after(1, "u"), UUID)
    assert_type(await fetch.aenqueue_many([("u",)]), list[UUID])
    assert_type(await app.aresult("01234567-89ab-7def-8123-456789abcdef"), TaskResult | None)
    await fetch.aenqueue(1)  # type: ignore[arg-type]
