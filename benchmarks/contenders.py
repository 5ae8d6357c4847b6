"""The contenders of `benchmarks.compare`: their processes, their servers and what was measured of them."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import servers
from benchmarks.peers import PEERS, Peer
from benchmarks.plan import Step
from benchmarks.servers import Server

__all__ = ["Contender", "contenders_of"]

ANSWER_SECS = 900.0


@dataclass
class Contender:
    """A driver process and what it has measured."""

    name: str
    kind: str
    place: str
    """Name of the server that it runs on."""
    command: list[str]
    share: float
    log: Path
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    @property
    def is_logged(self) -> bool:
        """Does its server write a binary log?"""
        return "+" in self.place

    def start(self) -> None:
        """Start the process and ask it for versions."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([_root(), *_inherited()])},
                cwd=_root(),
            )
        answer = self.ask("versions", {})
        self.versions = answer.get("result") or {}
        if "error" in answer:
            self.missing[""] = answer["error"]

    def ask(self, call: str, args: dict[str, Any]) -> dict[str, Any]:
        """Have one measurement taken."""
        process = self.process
        if process is None or process.poll() is not None:
            return {"error": "its process has ended: " + self._last_words()}
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"call": call, "args": args}) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return {"error": "its process has ended: " + self._last_words()}
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(ANSWER_SECS):
                process.kill()
                return {"error": f"no answer within {ANSWER_SECS:g} s"}
        line = process.stdout.readline()
        if not line:
            return {"error": "its process has ended: " + self._last_words()}
        found: dict[str, Any] = json.loads(line)
        return found

    def arguments(self, step: Step) -> dict[str, Any]:
        """Return the arguments of a step for this contender, whose number of tasks depends on its speed."""
        args = dict(step.args)
        smallest, unit = args.pop("smallest", 1), args.pop("step", 1)
        if "count" in args and step.shared:
            args["count"] = max(smallest, int(args["count"] * self.share))
            args["count"] = -(-args["count"] // unit) * unit
        if self.kind == "floor":
            args.pop("threads", None)
        return args

    def measure(self, step: Step) -> None:
        """Take one sample."""
        answer = self.ask(step.call, self.arguments(step))
        if "result" in answer:
            self.samples.setdefault(step.key, []).append(answer["result"])
        else:
            self.missing[step.key] = answer.get("not_measured") or f"failed: {answer.get('error')}"

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no word"

    def close(self) -> None:
        """End the process."""
        process = self.process
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _root() -> str:
    return str(Path(__file__).resolve().parent.parent)


def _inherited() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]


class _Starter:
    """Starts servers once, and contenders on them; what cannot be had is noted in `left_out`."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path, left_out: dict[str, str]) -> None:
        self.stack = stack
        self.directory = directory
        self.left_out = left_out
        self.running: dict[str, Server] = {}
        self.made: list[Contender] = []

    def server(self, kind: str, *, binlog: bool = False) -> Server | None:
        key = kind + ("+binlog" if binlog else "")
        if key not in self.running:
            try:
                self.running[key] = self.stack.enter_context(servers.started(kind, binlog=binlog))
            except (LookupError, RuntimeError, OSError) as error:
                self.left_out[key] = str(error)
                return None
        return self.running[key]

    def add(self, name: str, kind: str, place: Server, command: list[str], config: Any, share: float = 1.0) -> None:
        log = self.directory / f"{name}.log"
        contender = Contender(name, kind, place.name, [*command, json.dumps(config)], share, log)
        self.stack.callback(contender.close)
        contender.start()
        if "" in contender.missing:
            self.left_out[name] = contender.missing[""]
        else:
            self.made.append(contender)

    def peer(self, peer: Peer, place: Server, name: str, config: dict[str, Any]) -> None:
        command = [str(peer.python), "-m", peer.module]
        self.add(name, "peers", place, command, config | dict(peer.settings), peer.slow)

    def ours(self, place: Server, peers: Sequence[str]) -> None:
        """Start celers, the floor and the peers that run on the same server."""
        config = servers.make_database(place, "celers")
        self.add(f"celers@{place.name}", "celers", place, [sys.executable, "-m", "benchmarks.celers_driver"], config)
        config = servers.make_database(place, "floor")
        _migrate(config)
        self.add(f"floor@{place.name}", "floor", place, [sys.executable, "-m", "benchmarks.floor"], config)
        for name in peers:
            peer = PEERS[name]
            if peer.server == "sql" and peer.installed:
                config = servers.make_database(place, "peer_" + name.replace("-", "_"))
                self.peer(peer, place, f"{name}@{place.name}", config)

    def others(self, name: str) -> None:
        """Start a peer that has a server of its own."""
        peer = PEERS[name]
        place = self.server(peer.server)
        if place is None:
            self.left_out[name] = f"no {peer.server}: python -m benchmarks.peers install {name}"
        else:
            self.peer(peer, place, name, _own(place, name))


@contextlib.contextmanager
def contenders_of(
    kinds: Sequence[str], peers: Sequence[str], *, binlog: bool, directory: Path, left_out: dict[str, str]
) -> Iterator[tuple[list[Contender], list[Server]]]:
    """Start servers and contenders for the time of a `with` statement.

    Parameters
    ----------
    left_out
        Gets the reasons why a server or a contender is not there.
    """
    with contextlib.ExitStack() as stack:
        starter = _Starter(stack, directory, left_out)
        for kind in kinds:
            for with_log in (False, True) if binlog else (False,):
                place = starter.server(kind, binlog=with_log)
                if place is not None:
                    starter.ours(place, peers)
        for name in peers:
            if not PEERS[name].installed:
                left_out[name] = f"not installed: python -m benchmarks.peers install {name}"
            elif PEERS[name].server != "sql":
                starter.others(name)
        yield starter.made, list(starter.running.values())


def _own(place: Server, name: str) -> dict[str, Any]:
    """Return a database of a peer's own; on Redis each run empties the one that all of them use in turn."""
    if place.kind != "postgresql":
        return place.config
    database = name.replace("-", "_")
    config = place.config
    command = [config["psql"], "-h", config["host"], "-U", config["user"], "-c", f"CREATE DATABASE {database}"]
    subprocess.run(command, check=True, capture_output=True)
    return config | {"database": database}


def _migrate(config: dict[str, Any]) -> None:
    """Make the floor's tables: ``celers migrate``."""
    url = f"mysql://root@localhost/{config['database']}?unix_socket={config['socket']}"
    command = [sys.executable, "-m", "celers", "migrate", "--url", url]
    subprocess.run(command, check=True, capture_output=True)
