"""A network that is far away: TCP connections that are passed on, every byte after a while."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_CHUNK = 1 << 18


class DelayingProxy:
    """Listens on 127.0.0.1 and passes everything on to a port of this host, in both directions `delay_s` later.

    As wide as the host is fast: a delay costs no throughput, as on a line with large windows.

    Attributes:
        port: to connect to.
    """

    def __init__(self, target: int, delay_s: float) -> None:
        self.port, self._target, self._delay_s = 0, target, delay_s
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delaying proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_CHUNK))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond = await asyncio.open_connection("127.0.0.1", self._target, limit=_CHUNK)
        await asyncio.gather(self._pass(reader, beyond[1]), self._pass(beyond[0], writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.ensure_future(self._send(late, writer))
        while data := await reader.read(_CHUNK):
            late.put_nowait((self._loop.time() + self._delay_s, data))
        late.put_nowait((self._loop.time() + self._delay_s, b""))
        await sending

    async def _send(self, late: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            when, data = await late.get()
            await asyncio.sleep(max(0.0, when - self._loop.time()))
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()
