"""Ranks on two hosts: bytes on the wire beside those counted, and the time of a step beside that predicted.

    sudo python benchmarks/hosts.py [--only NETWORK ...] [--json FILE]

The hosts are two network namespaces of this machine (Linux, as root), joined by a link whose bandwidth is limited.
Predicted is the time in which a rank computes its shard, measured alone, and that of its bytes at this bandwidth.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ranks import NETWORKS, mpirun

HOSTS = {"gpumlp1": "10.99.0.1", "gpumlp2": "10.99.0.2"}
RATES = {"10 Gbit/s": 10_000, "1 Gbit/s": 1_000, "100 Mbit/s": 100}  # in Mbit/s
AGENT = """#!/bin/sh
# in the place of ssh: options, host, command
while [ "${1#-}" != "$1" ]; do shift; done
host=$1; shift; exec ip netns exec "$host" unshare --uts sh -c "hostname $host; $*"
"""


def sh(command: str) -> None:
    subprocess.run(command, shell=True, check=True, capture_output=True)


@contextlib.contextmanager
def two_hosts() -> Iterator[Path]:
    """Make two hosts that are joined by a link, and the agent that starts commands there; take them away again."""
    first, second = HOSTS
    try:
        for host in HOSTS:
            sh(f"ip netns add {host}")
            folder = Path("/etc/netns") / host
            folder.mkdir(parents=True, exist_ok=True)
            names = "\n".join(f"{other} {name}" for name, other in HOSTS.items())
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}\n")
        sh(f"ip link add v1 netns {first} type veth peer name v2 netns {second}")
        for number, (host, address) in enumerate(HOSTS.items(), 1):
            sh(f"ip -n {host} addr add {address}/24 dev v{number}")
            sh(f"ip -n {host} link set v{number} up; ip -n {host} link set lo up")
        with tempfile.TemporaryDirectory() as place:
            agent = Path(place) / "agent.sh"
            agent.write_text(AGENT)
            agent.chmod(0o755)
            yield agent
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)
            with contextlib.suppress(OSError):
                (Path("/etc/netns") / host / "hosts").unlink()
                (Path("/etc/netns") / host).rmdir()


def limit(mbit: int) -> None:
    """Limit what each host sends."""
    for number, host in enumerate(HOSTS, 1):
        burst = max(64, mbit // 2)  # KB: what a tick of the kernel's clock lets through
        sh(f"tc -n {host} qdisc replace dev v{number} root tbf rate {mbit}mbit burst {burst}kb latency 200ms")


def worker(network: str, shards: int, factor: float) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("ranks.py")), "--worker", network, str(shards), str(factor)]


def on_both(agent: Path, network: str) -> dict[str, Any]:
    """Return what the first of two ranks measures, each on a host of its own."""
    first, second = HOSTS
    command = [
        *(mpirun(), "--allow-run-as-root", "--host", f"{first}:1,{second}:1", "-n", "2", "--bind-to", "none"),
        *("--prtemca", "plm_ssh_agent", str(agent), "--mca", "pml", "ob1", "--mca", "btl", "tcp,self"),
        *("--mca", "btl_tcp_if_include", "10.99.0.0/24", "-x", "OMP_NUM_THREADS", "-x", "GPUMLP_BENCH_LINK"),
        *worker(network, 2, 1),
    ]
    inside = ["ip", "netns", "exec", first, "unshare", "--uts", "sh", "-c", f'hostname {first}; exec "$@"', "sh"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GPUMLP_BENCH_LINK": "v1"}
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run([*inside, *command], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--json", type=Path, help="file of the results")
    given = parser.parse_args()
    results: list[dict[str, Any]] = []
    print(f"{'network':9}{'link':12}{'bytes':>11}{'on the wire':>13}{'ratio':>7}{'step ms':>10}{'predicted':>11}")
    with two_hosts() as agent:
        for network in given.only:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            alone = subprocess.run(
                worker(network, 1, 0.5), capture_output=True, text=True, env=environment, check=True
            )
            compute = json.loads(alone.stdout)["step"]
            for name, mbit in RATES.items():
                limit(mbit)
                found = on_both(agent, network)
                ratio, predicted = found["sent"] / found["bytes"], compute + found["sent"] * 8 / (mbit * 1e6)
                more = {"compute": compute, "predicted": predicted, "ratio": ratio}
                results.append({"network": network, "link": name, **found, **more})
                counts = f"{found['bytes']:11,.0f}{found['sent']:13,.0f}{ratio:7.2f}"
                print(f"{network:9}{name:12}{counts}{found['step'] * 1e3:10.2f}{predicted * 1e3:11.2f}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
