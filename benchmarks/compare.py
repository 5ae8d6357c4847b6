"""Celers beside its floor and its peers: ``python -m benchmarks.compare``.

Every contender runs in a process of its own; each measurement is taken of one contender after the other, and all of
that is repeated in rounds, so that what disturbs the machine disturbs all alike. Ratios are taken within a round.
Every measurement verifies that no task was lost and none ran twice.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks import kernels, machine, report, servers, targets
from benchmarks.peers import PEERS
from benchmarks.servers import Server

__all__ = ["Contender", "Plan", "main", "plan_of"]

ANSWER_SECS = 900.0
QUICK_SECS = 520.0
"""When a quick run begins no further round: it has to end within ten minutes."""
OVERTIME_SECS = 45.0
"""How long after that it still takes first samples, on a machine too slow for one round."""


@dataclass(frozen=True)
class Step:
    """One measurement: which method of which contenders, with which arguments."""

    key: str
    call: str
    args: dict[str, Any]
    who: tuple[str, ...]
    """``celers``, ``floor`` and ``peers``."""
    rounds: int | None = None
    """Only in so many rounds; in all when None."""


@dataclass
class Plan:
    """What a run does."""

    steps: list[Step]
    rounds: int
    once: list[Step]


@dataclass
class Contender:
    """A driver process and what it has measured."""

    name: str
    kind: str
    command: list[str]
    share: float
    log: Path
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

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

    def measure(self, step: Step) -> None:
        """Take one sample."""
        args = dict(step.args)
        if "count" in args:
            smallest, step_size = args.pop("smallest", 1), args.pop("step", 1)
            args["count"] = max(smallest, int(args["count"] * self.share))
            args["count"] = -(-args["count"] // step_size) * step_size
        answer = self.ask(step.call, args)
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


def plan_of(*, quick: bool, scale: float = 1.0, rounds: int | None = None) -> Plan:
    """Return what a run measures, and how much of it.

    Parameters
    ----------
    quick : bool
        Small sizes and few rounds: under ten minutes on two cores, with all peers.
    scale : float
        Factor on all sizes.
    rounds : int, optional
        Number of rounds; 3 or 5 when None. A quick run leaves out what there is no time for.
    """

    def size(small: int, large: int, smallest: int = 100) -> int:
        return max(smallest, int((small if quick else large) * scale))

    single = {"count": size(1500, 10_000), "smallest": 60}
    batch = {"count": size(20_000, 100_000, 1000), "smallest": 1000, "step": 1000}
    drain = {"count": size(20_000, 100_000, 1000), "smallest": 150}
    slow = {"count": size(2000, 10_000)}
    network = {"count": size(8000, 40_000, 600), "batch": 100}
    ours = ("celers",)
    both = ("celers", "floor")
    everybody = ("celers", "floor", "peers")
    deep = size(100_000, 1_000_000, 1000)
    claims = {"claims": size(200, 500, 30)}
    steps = [
        Step("enqueue", "measure_enqueue_single", single, everybody),
        Step("enqueue_broker", "measure_broker_single", single, ours),
        Step("batch", "measure_enqueue_batch", batch, everybody),
        Step("batch_broker", "measure_broker_batch", batch, ours),
        Step("executemany", "measure_executemany", batch, ("floor",)),
        Step("claim_ack", "measure_claim_ack", {"count": size(10_000, 50_000, 300)}, both),
        Step("drain_1", "measure_drain", drain | {"workers": 1}, everybody),
        Step("drain_4", "measure_drain", drain | {"workers": 4}, everybody),
        Step("drain_1_results", "measure_drain", drain | {"workers": 1, "results": True}, both),
        Step("drain_4_results", "measure_drain", drain | {"workers": 4, "results": True}, both),
        Step("drain_single", "measure_drain", slow | {"workers": 1, "batch": 1, "threads": 1}, both),
        Step("network", "measure_network", network, both),
        Step("network_classic", "measure_network", network | {"classic": True}, ("floor",)),
        Step("threads", "measure_producer_threads", {"count": size(2000, 20_000, 800)}, ours),
        Step("async", "measure_producer_async", {"count": size(2000, 20_000, 800)}, ours),
        Step("buffer", "measure_producer_async", {"count": size(4000, 40_000, 800), "buffered": True}, ours),
        Step(
            "pickup",
            "measure_pickup",
            # The peers' share does not matter here: a task at a time.
            {"samples": size(30, 200, 5), "pause": [0.05, 0.15] if quick else [0.1, 0.3]},
            ("celers", "peers"),
            1 if quick else 2,
        ),
    ]
    once = [
        Step("round_trips", "measure_round_trips", {}, ours),
        Step("busy_worker", "measure_busy_worker", {"count": size(10_000, 50_000, 1000)}, ours),
        Step("idle", "measure_idle", {"secs": max(2.0, (10 if quick else 60) * min(1.0, scale))}, ours),
        Step("ring_cost", "measure_ring_cost", {"count": size(2000, 10_000)}, ours),
        *(
            step
            for case, rows in (
                ("ready", deep),
                ("future", deep),
                ("other", max(1000, deep // 5)),
                ("finished", deep),
            )
            for step in (
                # Before each of them, because the machine changes while the tables are filled.
                Step("depth_empty", "measure_depth", {"case": "empty", "rows": 0} | claims, ours),
                Step(f"depth_{case}", "measure_depth", {"case": case, "rows": rows} | claims, ours),
            )
        ),
    ]
    return Plan(steps, rounds or (3 if quick else 5), once)


@contextlib.contextmanager
def contenders_of(
    kinds: Sequence[str], peers: Sequence[str], *, binlog: bool, directory: Path, left_out: dict[str, str]
) -> Iterator[tuple[list[Contender], list[Server]]]:
    """Start servers and contenders; what cannot be had is noted in `left_out`."""
    with contextlib.ExitStack() as stack:
        running: dict[str, Server] = {}

        def server(kind: str, with_log: bool = False) -> Server | None:
            key = kind + ("+binlog" if with_log else "")
            if key not in running:
                try:
                    running[key] = stack.enter_context(servers.started(kind, binlog=with_log))
                except (LookupError, RuntimeError, OSError) as error:
                    left_out[key] = str(error)
                    return None
            return running[key]

        made: list[Contender] = []

        def add(name: str, kind: str, python: str, module: str, config: dict[str, Any], share: float = 1.0) -> None:
            log = directory / f"{name}.log"
            contender = Contender(name, kind, [python, "-m", module, json.dumps(config)], share, log)
            stack.callback(contender.close)
            contender.start()
            if "" in contender.missing:
                left_out[name] = contender.missing[""]
                return
            made.append(contender)

        for kind in kinds:
            for with_log in (False, True) if binlog else (False,):
                place = server(kind, with_log)
                if place is None:
                    continue
                config = servers.make_database(place, "celers")
                add(f"celers@{place.name}", "celers", sys.executable, "benchmarks.celers_driver", config)
                config = servers.make_database(place, "floor")
                _migrate(config)
                add(f"floor@{place.name}", "floor", sys.executable, "benchmarks.floor", config)
                for name in peers:
                    peer = PEERS[name]
                    if peer.server == "sql" and peer.installed:
                        config = servers.make_database(place, "peer_" + name.replace("-", "_"))
                        add(f"{name}@{place.name}", "peers", str(peer.python), peer.module, config, peer.slow)
        for name in peers:
            peer = PEERS[name]
            if not peer.installed:
                left_out[name] = f"not installed: python -m benchmarks.peers install {name}"
            elif peer.server != "sql":
                place = server(peer.server)
                if place is None:
                    left_out[name] = f"no {peer.server}: python -m benchmarks.peers install {name}"
                else:
                    add(name, "peers", str(peer.python), peer.module, _own(place, name), peer.slow)
        yield made, list(running.values())


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


def take(contender: Contender, step: Step) -> None:
    """Take one sample, with the arguments that the method knows."""
    args = dict(step.args)
    if step.call == "measure_pickup":
        args["count"] = args.pop("samples")
        share, contender.share = contender.share, 1.0
        try:
            contender.measure(Step(step.key, step.call, args, step.who))
        finally:
            contender.share = share
        return
    if step.call == "measure_depth":
        rows = args.pop("rows")
        answer_to = Step(step.key, step.call, args | {"count": rows}, step.who)
        contender.measure(answer_to)
        for sample in contender.samples.get(step.key, []):
            sample["rows"] = rows
        return
    if contender.kind == "floor":
        args.pop("threads", None)
    contender.measure(Step(step.key, step.call, args, step.who))


def no_time(contender: Contender, step: Step, deadline: float | None) -> bool:
    """Is it too late to take this sample? Then say so in the report, unless there is one already."""
    if deadline is None or time.monotonic() < deadline + OVERTIME_SECS:
        return False
    if step.key not in contender.samples:
        contender.missing[step.key] = "no time left"
    return True


def run(plan: Plan, made: Sequence[Contender], *, deadline: float | None, say: Any) -> int:
    """Carry a plan out; return the number of complete rounds."""
    complete = 0
    for number in range(plan.rounds):
        began = time.monotonic()
        # The order changes from round to round, so that nobody always follows the same neighbour.
        turn = number % max(1, len(made))
        order = [*made[turn:], *made[:turn]]
        for step in plan.steps:
            if step.rounds is not None and number >= step.rounds:
                continue
            for contender in order:
                if contender.kind in step.who and not no_time(contender, step, deadline):
                    say(f"round {number + 1}: {step.key}, {contender.name}")
                    take(contender, step)
        complete += 1
        if number == 0:
            for step in plan.once:
                for contender in made:
                    if contender.kind in step.who and not no_time(contender, step, deadline):
                        say(f"once: {step.key}, {contender.name}")
                        take(contender, step)
        if deadline is not None:
            # The first round is the longest: it takes more kinds of samples.
            expected = (time.monotonic() - began) * (0.7 if number == 0 else 1.0)
            if time.monotonic() + expected > deadline:
                break
    return complete


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: under ten minutes on two cores")
    parser.add_argument(
        "--server", choices=("mariadb", "mysql", "both"), default="both", help="where celers runs (default: both)"
    )
    parser.add_argument(
        "--peers", metavar="A,B", help=f"of {', '.join(PEERS)}; none for none (default: all that are installed)"
    )
    parser.add_argument("--binlog", action="store_true", help="also with the binary log on and sync_binlog=1")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything that was measured")
    parser.add_argument("--svg", metavar="DIR", type=Path, help="write charts")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds (default: 3 with --quick, 5 without)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="factor on all sizes (default: 1)")
    parser.add_argument("--quiet", action="store_true", help="do not report progress")
    options = parser.parse_args(arguments)
    if options.peers is None:
        options.names = list(PEERS)
    else:
        options.names = [name for name in options.peers.split(",") if name and name != "none"]
        unknown = [name for name in options.names if name not in PEERS]
        if unknown:
            parser.error(f"no peer is named {', '.join(unknown)}")
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return everything ready for JSON."""
    started = time.monotonic()

    def say(text: str) -> None:
        if not options.quiet:
            print(f"[{time.monotonic() - started:6.1f} s] {text}", file=sys.stderr, flush=True)

    plan = plan_of(quick=options.quick, scale=options.scale, rounds=options.rounds)
    kinds = ("mariadb", "mysql") if options.server == "both" else (options.server,)
    left_out: dict[str, str] = {}
    facts = machine.describe()
    with tempfile.TemporaryDirectory(prefix="celers-compare-") as directory:
        say("starting servers and contenders")
        with contenders_of(
            kinds, options.names, binlog=options.binlog, directory=Path(directory), left_out=left_out
        ) as (made, running):
            if not any(contender.kind == "celers" for contender in made):
                raise SystemExit("nothing to measure: " + "; ".join(f"{key}: {text}" for key, text in left_out.items()))
            deadline = started + QUICK_SECS if options.quick else None
            rounds = run(plan, made, deadline=deadline, say=say)
            names = [server.name for server in running if server.kind in ("mariadb", "mysql")]
    say("compiled functions")
    found = kernels.measure(quick=options.quick)
    samples = {contender.name: contender.samples for contender in made}
    missing = {(contender.name, key): text for contender in made for key, text in contender.missing.items()}
    for name, text in left_out.items():
        for target in targets.RATIOS:
            missing[name, target.theirs] = text.split(":")[0]
    made_rows = [row for name in names for row in targets.rows(samples, name, missing)] + targets.kernels(found)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": facts | {"load_after": machine.load()},
        "settings": {
            "quick": options.quick,
            "scale": options.scale,
            "rounds": rounds,
            "binlog": options.binlog,
            "seconds": round(time.monotonic() - started, 1),
        },
        "servers": {server.name: server.version for server in running},
        "versions": {contender.name: contender.versions for contender in made},
        "rows": made_rows,
        "samples": samples,
        "kernels": found,
        "missing": {f"{name}: {key}": text for (name, key), text in missing.items() if key and name not in left_out},
        "left_out": left_out,
    }


def show(result: dict[str, Any]) -> None:
    """Print the report."""
    facts, settings = result["machine"], result["settings"]
    print(f"celers benchmarks, {result['date']}")
    print(
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gb']} GB, {facts['system']},"
        f" Python {facts['python']}; fsync {facts['fsync_us']} us; load {facts['load']} before,"
        f" {facts['load_after']} after"
    )
    print("servers: " + ", ".join(f"{name} {version}" for name, version in result["servers"].items()))
    for name, versions in result["versions"].items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in versions.items()))
    print(f"{settings['rounds']} rounds in {settings['seconds']:g} s; median (lowest-highest)\n")
    print(report.contender_table(result["samples"]), end="\n\n")
    print(report.target_table(result["rows"]))
    if result["missing"]:
        print("\nnot measured:")
        for key, text in result["missing"].items():
            print(f"- {key}: {text}")
    if result["left_out"]:
        print("\nleft out:")
        for key, text in result["left_out"].items():
            print(f"- {key}: {text}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; status 1 when a contender gave wrong counts or failed."""
    options = parse(arguments)
    result = measure(options)
    show(result)
    if options.json:
        _write_json(options.json, result)
    if options.svg:
        options.svg.mkdir(parents=True, exist_ok=True)
        for name, text in report.charts(result["samples"]).items():
            (options.svg / name).write_text(text)
    return 1 if any(text.startswith("failed") for text in result["missing"].values()) else 0


def _write_json(path: Path, result: dict[str, Any]) -> None:
    ready = result | {"rows": [row.to_dict() for row in result["rows"]]}
    with path.open("w") as file:
        _dump(ready, file)


def _dump(value: Any, file: IO[str]) -> None:
    json.dump(value, file, indent=1)
    file.write("\n")


if __name__ == "__main__":
    sys.exit(main())
