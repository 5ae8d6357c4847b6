"""A proxy that delays what passes through it and counts round trips: a network, on one machine.

    python -m benchmarks.proxy --to /run/mysqld.sock --delay-ms 0.5

listens on a free port of 127.0.0.1, prints the port, and answers each line on its standard input with the number of
commands that clients have sent so far (packets of the MySQL protocol with sequence number 0, one for each round
trip). It ends with its standard input. Each direction is delayed by the given time, so 0.5 makes a round trip of 1 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["CommandCounter", "Proxy", "running"]

CHUNK = 1 << 16


@dataclass
class CommandCounter:
    """Counts the commands in a client's stream: a packet is 3 bytes of length, 1 of sequence, then the body."""

    commands: int = 0
    _head: bytearray = field(default_factory=bytearray)
    _body_left: int = 0
    _continued: bool = False

    def feed(self, data: bytes) -> None:
        """Take the next part of the stream."""
        at = 0
        while at < len(data):
            if self._body_left:
                step = min(self._body_left, len(data) - at)
                self._body_left -= step
                at += step
                continue
            need = 4 - len(self._head)
            self._head += data[at : at + need]
            at += need
            if len(self._head) == 4:
                length = int.from_bytes(self._head[:3], "little")
                if self._head[3] == 0 and not self._continued:
                    self.commands += 1
                # A command of 16 MiB and more goes on in the next packet, whose number may come around to 0.
                self._continued = length == 0xFFFFFF
                self._body_left = length
                self._head.clear()


class Proxy:
    """Passes connections on to a unix socket or a port, late."""

    def __init__(self, target: str | int, delay_secs: float) -> None:
        self.target = target
        self.delay_secs = delay_secs
        self.counters: list[CommandCounter] = []

    @property
    def commands(self) -> int:
        """Commands of all connections so far."""
        return sum(counter.commands for counter in self.counters)

    async def serve(self) -> asyncio.Server:
        """Listen on a free port."""
        return await asyncio.start_server(self._client, "127.0.0.1", 0, limit=CHUNK)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self.target, int):
                up = await asyncio.open_connection("127.0.0.1", self.target, limit=CHUNK)
            else:
                up = await asyncio.open_unix_connection(self.target, limit=CHUNK)
        except OSError:
            writer.close()
            return
        counter = CommandCounter()
        self.counters.append(counter)
        # Cancelled when the proxy ends, which is no error of the connection.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self._pass(reader, up[1], counter), self._pass(up[0], writer, None))

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counter: CommandCounter | None
    ) -> None:
        """Copy a direction; what is read at one moment is written a fixed time later, however much is on the way."""
        waiting: deque[tuple[float, bytes]] = deque()
        arrived = asyncio.Event()
        sender = asyncio.create_task(self._send(waiting, arrived, writer))
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if counter is not None:
                    counter.feed(data)
                waiting.append((time.perf_counter() + self.delay_secs, data))
                arrived.set()
        waiting.append((0.0, b""))
        arrived.set()
        await sender

    async def _send(
        self, waiting: deque[tuple[float, bytes]], arrived: asyncio.Event, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                while not waiting:
                    arrived.clear()
                    await arrived.wait()
                due, data = waiting.popleft()
                if not data:
                    break
                # The event loop's timers have whole milliseconds on some systems: sleep most, then yield.
                while (left := due - time.perf_counter()) > 0:
                    await asyncio.sleep(left - 0.0002 if left > 0.0004 else 0)
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            writer.close()


class Running:
    """A proxy in a process of its own."""

    def __init__(self, target: str | int, delay_secs: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.proxy", "--to", str(target), "--delay-ms", str(delay_secs * 1000)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def commands(self) -> int:
        """Commands so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._line())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@contextlib.contextmanager
def running(target: str | int, delay_secs: float = 0.0) -> Iterator[Running]:
    """A proxy for the time of a `with` statement."""
    proxy = Running(target, delay_secs)
    try:
        yield proxy
    finally:
        proxy.close()


async def _main(target: str | int, delay_secs: float) -> None:
    proxy = Proxy(target, delay_secs)
    server = await proxy.serve()
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(proxy.commands, flush=True)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description="delay proxy")
    parser.add_argument("--to", required=True, metavar="SOCKET|PORT")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="in each direction")
    options = parser.parse_args()
    target = int(options.to) if options.to.isdigit() else options.to
    asyncio.run(_main(target, options.delay_ms / 1000))


if __name__ == "__main__":
    main()
