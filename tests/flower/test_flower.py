"""An app of Flower with secure aggregation: simulated, and as a deployment of which one node is killed.

Real processes of flwr on the loopback interface. `make test-flower` runs this in an environment of its own;
where flwr is missing it is skipped by name.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="flwr is not installed: make test-flower")

from protocol.node_policies import insist

from fedsec.integrations.node import enrol

pytestmark = pytest.mark.flower

APP = Path(__file__).parent / "app"
NODES = 4
SECONDS = 1200  # a bound on every wait, many times what it takes
# What the owners of the nodes let the app have: exact sums, of these numbers.
OWNER = {"max_corrupt": 1, "min_survivors": 3}
EXACT = OWNER | {"noise": ["none"], "metrics": ["num-examples", "number", "secret-loss"]}
RAY_IS_LATE = "The current node timed out during startup"  # after 30 seconds, which nothing can change


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Flower:
    """Flower's programs, each in a session of its own, and what they need to know."""

    def __init__(self, folder):
        self.folder, self.port, self.started = folder, free_port(), []
        self.authority = enrol(folder / "nodes", NODES, **EXACT).hex()
        home = folder / "home"
        home.mkdir()
        options = "options.num-supernodes = 4\noptions.backend.client-resources.num-cpus = 1\n"
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\n'
            f"insecure = true\n{options}"
        )
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds; 1 if not said
            "OMP_NUM_THREADS": "1",
        }

    def insist(self, **policy):
        for number in range(NODES):
            insist(self.folder / "nodes" / str(number), **policy)

    def start(self, *words):
        with self.log(words[0]).open("a") as log:
            process = subprocess.Popen(
                [str(word) for word in words],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def log(self, program):
        return self.folder / f"{program}.log"

    def superlink(self, *words):
        where = ("--insecure", "--host", "127.0.0.1", "--port", self.port)
        link = self.start("flower-superlink", *where, "--disable-runtime-dependency-installation", *words)
        deadline = time.monotonic() + SECONDS
        while "Application startup complete" not in self.log("flower-superlink").read_text():
            assert time.monotonic() < deadline
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"the SuperLink ended: {link.wait(0.2)}")

    def supernode(self, number, **config):
        said = {"partition-id": number, "fedsec": f'"{self.folder}/nodes/{number}"'} | config
        return self.start(
            *("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.port}"),
            *("--port", free_port(), "--node-config", " ".join(f"{k}={v}" for k, v in said.items())),
        )

    def run(self, app=APP, **config):
        """Starts the app; what it says goes to a file, and its report is what counts."""
        said = {
            "fedsec-nodes": f"'{self.folder}/nodes'",
            "directory": f"'{self.folder}/nodes/clients.directory'",
            "authority": f"'{self.authority}'",
            "out": f"'{self.folder}/out.json'",
            "clients": NODES,
        } | config
        words = " ".join(f"{name}={value}" for name, value in said.items())
        return self.start("flwr", "run", app, "here", "--stream", "--run-config", words)

    def report(self, run, name="out.json"):
        run.wait(SECONDS)
        out, log = self.folder / name, self.log("flwr").read_text()
        assert out.exists(), log
        return json.loads(out.read_text()), log

    def simulate(self, app=APP, **config):
        """The report of a simulation; on a busy machine Ray may need another go to come up at all."""
        self.superlink("--simulation", "--isolation", "subprocess")
        for _ in range(3):
            run = self.run(app, **config)
            run.wait(SECONDS)
            if RAY_IS_LATE not in self.log("flwr").read_text():
                break
            self.log("flwr").unlink()
        return self.report(run)[0]

    def end(self):
        for process in reversed(self.started):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(10)


@pytest.fixture
def flower(tmp_path):
    programs = Flower(tmp_path)
    yield programs
    programs.end()


def mean(clients):
    """Client i moves by i + 1 with weight i + 1."""
    weights = [client + 1 for client in clients]
    return sum(weight * weight for weight in weights) / sum(weights)


def require_moved_by(report, moved):
    arrays = {name: np.array(values) for name, values in report["arrays"].items()}
    np.testing.assert_allclose(arrays["w"], np.full((40, 5), moved), rtol=1e-6)
    np.testing.assert_allclose(arrays["b"], np.full(3, 1.0 + moved), rtol=1e-6)
    assert arrays["steps"].tolist() == [0, 1]


def require_nothing_in_clear(report):
    """All that clients ever answered: ids, and messages of the protocol."""
    seen = {json.dumps(content) for _, content in report["seen"] if content}
    assert seen == {'{"fedsec": ["client-id", "payload"]}', '{"fedsec": ["payload"]}'}


def require_metrics(report, clients):
    """Means over all clients, each within the bounds that the server's app gives."""
    numbers = {"number": pytest.approx(mean(clients)), "secret-loss": pytest.approx(10.0)}
    assert report["train_metrics"] == {"1": numbers, "2": numbers}


def test_simulation(flower):
    report = flower.simulate(evaluate="true")
    require_moved_by(report, 2 * mean(range(NODES)))
    require_nothing_in_clear(report)
    require_metrics(report, range(NODES))
    numbers = {"number": pytest.approx(mean(range(NODES)))}
    assert report["evaluate_metrics"] == {"1": numbers, "2": numbers}


def test_the_example_learns_within_its_budget(flower):
    pytest.importorskip("sklearn")
    privacy = {"epsilon": 1e4, "rounds": 3}  # four clients: room for noise that training stands
    flower.insist(**OWNER, target_epsilon=1e4, metrics=["accuracy"])
    report = flower.simulate(APP.parents[2] / "examples" / "flower", **privacy)
    assert len(report["accuracy"]) == 4
    assert report["accuracy"][-1] > max(0.3, report["accuracy"][0] + 0.1)
    assert len(report["accuracy_at_clients"]) == 3
    assert abs(report["accuracy_at_clients"][-1] - report["accuracy"][-1]) < 0.2
    assert 0 < report["epsilon"] <= 1e4


def test_deployment_with_a_node_killed_in_the_middle_of_a_round(flower):
    """And then a run that asks for more than the owners of the nodes that are left allow."""
    trap = flower.folder / "trap"
    os.mkfifo(trap)
    victim = NODES - 1
    flower.superlink()
    nodes = [flower.supernode(number) for number in range(NODES - 1)]
    nodes.append(flower.supernode(victim, trap=f'"{trap}"'))
    run = flower.run()

    training = os.open(trap, os.O_RDONLY | os.O_NONBLOCK)
    assert select.select([training], [], [], SECONDS)[0], "nobody trains"
    assert os.read(training, 100) == b"training"
    os.killpg(nodes[victim].pid, signal.SIGKILL)

    report, log = flower.report(run)
    assert select.select([training], [], [], SECONDS)[0], "the process that trained is still there"
    assert os.read(training, 100) == b""
    assert "round 1, the sum of 3 clients" in log
    assert "round 2, the sum of 3 clients" in log
    require_moved_by(report, 2 * mean(range(NODES - 1)))
    require_nothing_in_clear(report)
    require_metrics(report, range(NODES - 1))

    flower.insist(**EXACT | {"metrics": ["num-examples"]})
    run = flower.run(clients=NODES - 1, rounds=1, out=f"'{flower.folder}/refused.json'")
    report, log = flower.report(run, "refused.json")
    assert report["arrays"] == {}
    assert log.count("no answer: fedsec: PolicyError") == NODES - 1
    assert "to take it" not in log, "what the owner of a node is told is not for the server"
    for number in range(NODES - 1):
        owner = (
            f"fedsec: refused by [policy] of {flower.folder}/nodes/{number}/node.toml: the metric 'number'"
        )
        assert owner in flower.log("flower-supernode").read_text()
