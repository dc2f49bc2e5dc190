"""A W&B server, made up, that dies in the middle of a run."""

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("wandb")

RUN = """
import sys
from seglab.loggers import close
from seglab.loggers.wandb import Wandb

logger = Wandb(sys.argv[1], timeout=4)
print("ready", flush=True)
logger.log_metrics({"loss": 1.0}, 1)
print(logger._wandb_init["mode"], flush=True)
sys.stdin.readline()
for step in range(2, 200):
    logger.log_metrics({"loss": 1.0}, step)
close(0)
print("closed", flush=True)
"""
BUCKET = {
    "id": "1", "name": "run", "displayName": "run", "config": "{}", "historyLineCount": 0,
    "project": {"id": "2", "name": "seglab", "entity": {"id": "3", "name": "me"}},
}  # fmt: skip
ANSWERS = {
    "UpsertBucket": {"upsertBucket": {"bucket": BUCKET, "inserted": True}},
    "CreateRunFiles": {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": []}},
}


class Server(ThreadingHTTPServer):
    """Answers until it is dead; then it takes every request and says nothing."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.dead, self.over = threading.Event(), threading.Event()
        self.asked = []
        self.asked_after_death = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.dead.is_set():
            self.server.asked_after_death += 1
            self.server.over.wait(120)
            return
        query = json.loads(body) if self.path == "/graphql" else {}
        name = query.get("operationName", self.path)
        self.server.asked.append(name)
        answer = json.dumps({"data": ANSWERS.get(name, {})} if self.path == "/graphql" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_HEAD = do_POST

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    running = Server()
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.over.set()
    running.shutdown()
    running.server_close()


@pytest.fixture
def start():
    started = []

    def begin(server, folder):
        started.append(launch(server, folder))
        return started[-1]

    yield begin
    for job in started:
        job.kill()
        job.wait()


def launch(server, folder):
    home = str(folder / "home")
    own = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "HOME": home, "WANDB_CONFIG_DIR": home}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder / "run")], env={**kept, **own}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_server_that_dies_in_mid_run_delays_the_end_by_a_bounded_time_and_loses_nothing(server, start, tmp_path):
    job = start(server, tmp_path)
    assert [job.stdout.readline().strip() for _ in range(2)] == ["ready", "online"]
    assert "UpsertBucket" in server.asked
    server.dead.set()
    began = time.monotonic()
    said, errors = job.communicate("go on\n", timeout=150)
    seconds = time.monotonic() - began
    assert job.returncode == 0, errors
    assert "closed" in said
    assert server.asked_after_death > 0
    assert seconds < 60, "4 to finish, and what a busy machine needs"
    assert len(list((tmp_path / "run").glob("wandb/run-*/*.wandb"))) == 1, "wandb sync can upload it later"


@pytest.mark.slow
def test_a_server_that_never_answers_delays_the_start_by_a_bounded_time_and_the_run_is_offline(server, start, tmp_path):
    server.dead.set()
    job = start(server, tmp_path)
    assert job.stdout.readline().strip() == "ready"
    began = time.monotonic()
    said, errors = job.communicate("go on\n", timeout=150)
    assert job.returncode == 0, errors
    assert said.split() == ["offline", "closed"]
    assert time.monotonic() - began < 90
    assert len(list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))) == 1
