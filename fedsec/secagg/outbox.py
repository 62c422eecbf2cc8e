"""The server's answers of one phase, each made when it is read.

Answers share most of what they say: one quorum of 10,000 signatures is 570 KB, and as many copies of it, all
at once, 5.7 GB. Kept is what they are made of, which the server had already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping

_Make = Callable[[int], bytes]


class Outbox(MutableMapping[int, bytes]):
    """Messages by client id, in the order of `clients`, to be used like a dictionary.

    A message is the same bytes whenever it is read, whatever has become of the session; to read it again
    makes it again. Entries may be replaced and deleted, as a transport that loses some would.
    """

    def __init__(self, clients: Iterable[int], make: _Make) -> None:
        self._make = make
        # What a caller put in place of an answer, or None.
        self._messages: dict[int, bytes | None] = dict.fromkeys(clients)

    def __repr__(self) -> str:
        return f"<secagg.Outbox for {len(self)} clients>"

    def __getitem__(self, client: int) -> bytes:
        message = self._messages[client]
        return self._make(client) if message is None else message

    def __setitem__(self, client: int, message: bytes) -> None:
        self._messages[client] = message

    def __delitem__(self, client: int) -> None:
        del self._messages[client]

    def __iter__(self) -> Iterator[int]:
        return iter(self._messages)

    def __len__(self) -> int:
        return len(self._messages)
