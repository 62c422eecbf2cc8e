"""A client of secure aggregation over plain HTTP, of the standard library alone.

    python client.py http://127.0.0.1:PORT 3 --key alice.pem --directory clients.directory \
        --authority HEX --folder alice.state 1.5 2.25 -3

adds its numbers to the sum. Killed at any time and started again with the same words, it goes on.
See docs/transport.md.
"""

import argparse
import sys
from http import HTTPStatus
from http.client import HTTPConnection
from urllib.parse import urlsplit

import numpy as np

from fedsec import secagg

TIMEOUT_SECONDS = 60.0


class Server:
    """The other side: two kinds of request, and no state."""

    def __init__(self, url):
        self.address = urlsplit(url).netloc

    def get(self, path):
        """The body, once there is one; None if there never will be."""
        status, body = HTTPStatus.NO_CONTENT, b""
        while status == HTTPStatus.NO_CONTENT:
            status, body = self._request("GET", path)
        return body if status == HTTPStatus.OK else None

    def post(self, path, message):
        """Hands over a message; one that is there already is refused, and then the answer will show it."""
        self._request("POST", path, message)

    def _request(self, method, path, body=None):
        connection = HTTPConnection(self.address, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def take_part(server, participant, client_id, config, vector):
    """One session, from wherever the participant stands: its last message is sent again."""
    message = participant.join(config)
    while True:
        following = participant.phase.value
        server.post(f"/{client_id}", message)
        print(f"sent, {following} is next", flush=True)
        if following == "done":
            return
        request = server.get(f"/{client_id}/{following}")
        if request is None:
            sys.exit(f"out before {following}: this client was dropped, or the session was aborted")
        message = participant.answer(config.session_id, request, vector)


def main():
    """Loads what this client trusts, and takes part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("client_id", type=int)
    parser.add_argument("numbers", type=float, nargs="+")
    parser.add_argument("--key", required=True, help="this client's key file")
    parser.add_argument("--directory", required=True)
    parser.add_argument("--authority", required=True, help="public key of the directory's authority")
    parser.add_argument("--folder", required=True, help="where this client's sessions rest")
    parser.add_argument("--max-corrupt", type=int, default=1, help="so many may deviate, at least")
    parser.add_argument("--min-survivors", type=int, default=3, help="so many in a sum, at least")
    arguments = parser.parse_args()

    directory = secagg.Directory.load(arguments.directory, bytes.fromhex(arguments.authority))
    server = Server(arguments.url)
    config = secagg.Config.from_bytes(server.get("/config"), participants=directory)
    policy = secagg.Policy(max_corrupt=arguments.max_corrupt, min_survivors=arguments.min_survivors)
    identity = secagg.Identity.load(arguments.key)
    participant = secagg.Participant(arguments.folder, arguments.client_id, identity, policy=policy)
    numbers = np.array(arguments.numbers)
    take_part(
        server, participant, arguments.client_id, config, lambda config: config.quantizer.quantize(numbers)
    )


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"the server is gone: {error}")
