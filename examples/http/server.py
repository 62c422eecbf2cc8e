"""A server of secure aggregation over plain HTTP, of the standard library alone.

    python server.py clients.directory --authority HEX --length 3

prints its address, runs one session with all clients of the directory, and prints the sum as one JSON object.
Whoever has not turned up within `--turnout` seconds, or not answered within `--patience`, is dropped. See
docs/transport.md.
"""

import argparse
import json
import secrets
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fedsec import secagg
from fedsec.errors import AggregationAborted, FedsecError

PHASES = list(secagg.Phase)  # in order; "done" and "aborted" are the last two
POLL_SECONDS = 10.0
MAX_BODY_BYTES = 1 << 30


class Session:
    """`secagg.Server` with what it leaves to its caller: a clock, and a place for messages to wait in."""

    def __init__(self, config, turnout, patience):
        self.config, self.seconds, self.patience = config, turnout, patience
        self.server = secagg.Server(config)
        self.changed = threading.Condition()
        self.due, self.arrived, self.outbox = set(config.ids), set(), {}

    def receive(self, client_id, message):
        """A client's message; a `FedsecError` refuses it."""
        with self.changed:
            self.server.receive(client_id, message)
            self.arrived.add(client_id)
            self.changed.notify_all()

    def message(self, client_id, phase):
        """What asks a client for its message of a phase: bytes, "wait", or None if it is out."""
        with self.changed:
            is_there = self.changed.wait_for(lambda: self._reached(phase), POLL_SECONDS)
            return self.outbox.get(phase, {}).get(client_id) if is_there else "wait"

    def _reached(self, phase):
        return PHASES.index(self.server.phase) >= PHASES.index(phase)

    def run(self):
        """All phases; each ends when everybody's message is there, or patience is over."""
        with self.changed:
            while self.server.phase != "done":
                self.changed.wait_for(lambda: self.arrived >= self.due, self.seconds)
                try:
                    answers = self.server.close_phase()
                finally:
                    self.changed.notify_all()
                self.due, self.arrived, self.seconds = set(answers), set(), self.patience
                self.outbox[self.server.phase] = answers


def handler(session):
    """GET /config; POST /CLIENT a message; GET /CLIENT/PHASE, which waits for what asks for the next one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path == "/config":
                return self.reply(HTTPStatus.OK, session.config.to_bytes())
            client_id, phase = self.path.strip("/").split("/")
            answer = session.message(int(client_id), secagg.Phase(phase))
            if answer == "wait":
                return self.reply(HTTPStatus.NO_CONTENT)
            return self.reply(HTTPStatus.OK, answer) if answer else self.reply(HTTPStatus.GONE)

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            if length > MAX_BODY_BYTES:
                return self.reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            body = self.rfile.read(length)
            try:
                session.receive(int(self.path.strip("/")), body)
            except FedsecError as error:
                return self.reply(HTTPStatus.CONFLICT, str(error).encode())
            return self.reply(HTTPStatus.OK)

        def reply(self, status, body=b""):
            self.send_response(status)
            if status != HTTPStatus.NO_CONTENT:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Nothing: addresses and times are the clients'."""

    return Handler


def proposal(arguments):
    """The configuration of a session with everybody in the directory."""
    authority = bytes.fromhex(arguments.authority)
    directory = secagg.Directory.load(arguments.directory, authority)
    quantizer = secagg.Quantizer(granularity=2**-16, max_abs=1000.0, num_clients=len(directory))
    return secagg.Config(
        session_id=secrets.token_bytes(32),
        round_id=time.time_ns(),  # rises from session to session; clients go by their stores
        participants=directory,
        vector_length=arguments.length,
        parameters=secagg.recommend(
            num_clients=len(directory), corrupt_fraction=arguments.corrupt, dropout_fraction=arguments.lost
        ),
        modulus_bits=quantizer.modulus_bits,
        quantizer=quantizer,
        model_digest=bytes(32),  # no model is trained here; see secagg.model_digest
    )


def main():
    """The address, a session, the sum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--authority", required=True, help="public key of the directory's authority")
    parser.add_argument("--length", type=int, required=True, help="numbers a client has")
    parser.add_argument("--corrupt", type=float, default=0.1, help="fraction that may be corrupt")
    parser.add_argument("--lost", type=float, default=0.3, help="fraction that may be lost")
    parser.add_argument("--turnout", type=float, default=600.0, help="seconds that clients have to turn up")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds a later phase lasts at most")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()

    session = Session(proposal(arguments), arguments.turnout, arguments.patience)
    http = ThreadingHTTPServer(("127.0.0.1", arguments.port), handler(session))
    http.daemon_threads = False  # the last answers leave before the process does
    threading.Thread(target=http.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{http.server_port}", flush=True)
    try:
        session.run()
    except AggregationAborted as error:
        sys.exit(f"aborted: {error}")
    finally:
        http.shutdown()
        http.server_close()
    total = session.config.quantizer.dequantize(session.server.result())
    print(json.dumps({"sum": total.tolist(), "survivors": session.server.survivors}))


if __name__ == "__main__":
    main()
