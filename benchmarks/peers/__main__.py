"""Install the peers: ``python -m benchmarks.peers install [NAME ...]``; ``list`` shows what is there.

Each gets a virtual environment outside the repository (`cache_directory`). Their servers, Redis and PostgreSQL, are
packages of the system: they are installed too where apt-get is there and this is root or sudo works without asking.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys

from benchmarks import servers
from benchmarks.peers import PEERS, Peer, cache_directory

PACKAGES = {"redis": "redis-server", "postgresql": "postgresql"}


def install_server(kind: str) -> bool:
    """Install a server's package unless its program is there; tell whether it is there now."""
    if servers.find(kind) is not None:
        return True
    apt = shutil.which("apt-get")
    if apt is None:
        print(f"{kind}: install it with this system's package manager", file=sys.stderr)
        return False
    command = [apt, "install", "-y", "-q", PACKAGES[kind]]
    if os.geteuid() != 0:
        command = ["sudo", "-n", *command]
    print(" ".join(command), file=sys.stderr)
    subprocess.run(command, check=False, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    return servers.find(kind) is not None


def install(peer: Peer) -> bool:
    """Make the environment of a peer anew."""
    place = cache_directory() / peer.environment
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    print(f"{peer.environment}: {', '.join(peer.requirements)} into {place}", file=sys.stderr)
    steps = [
        [sys.executable, "-m", "venv", str(place)],
        [str(peer.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.requirements],
    ]
    for step in steps:
        if subprocess.run(step, check=False).returncode:
            return False
    (place / "complete").touch()
    return True


def main() -> int:
    """Carry out the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="the peers of the benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    adder = commands.add_parser("install", help="make environments, and install servers")
    adder.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)} (default: all)")
    adder.add_argument("--again", action="store_true", help="also where one is complete: takes newer versions")
    commands.add_parser("list", help="show what is installed")
    options = parser.parse_args()
    if options.command == "list":
        for peer in PEERS.values():
            print(f"{peer.name:<15} {'installed' if peer.installed else 'not installed':<15} {peer.server}")
        for kind in servers.KINDS:
            program = servers.find(kind)
            print(f"{kind:<15} {program.version + ' ' + program.path if program else 'not installed'}")
        return 0
    unknown = [name for name in options.names if name not in PEERS]
    if unknown:
        parser.error(f"no peer is named {', '.join(unknown)}")
    wanted = [PEERS[name] for name in options.names or PEERS]
    failed: list[str] = []
    made: set[str] = set()
    for kind in sorted({peer.server for peer in wanted} & PACKAGES.keys()):
        if not install_server(kind):
            failed.append(kind)
    for peer in wanted:
        if peer.environment in made or (peer.installed and not options.again):
            continue
        made.add(peer.environment)
        if not install(peer):
            failed.append(peer.name)
    if failed:
        print(f"not installed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
