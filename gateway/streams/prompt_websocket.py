"""uvicorn's WebSocket, but that a close does not wait behind messages that the client does not read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

ABORT_SECONDS = 1.0
"""That the client is given to read after all, before its connection is cut."""


class PromptWebSocket(WebSocketsSansIOProtocol):
    """What `uvicorn.Config(ws=…)` is given."""

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message; a close at once, and with a deadline, where the client does not read."""
        is_stuck = self.handshake_complete and not self.writable.is_set()
        if message["type"] == "websocket.close" and is_stuck and not self.close_sent:
            self.conn.send_close(message.get("code", 1000), message.get("reason", "") or "")
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            if self.read_paused:
                self.read_paused = False
                self.transport.resume_reading()
            self.close_timer = self.loop.call_later(ABORT_SECONDS, self.transport.abort)
            return
        await super().send(message)
