"""Compressed messages of WebSockets (RFC 7692), by `websockets`; but what comes is inflated by who reads it, piece by piece.

A message of a few kilobytes may be a thousand times as long when it is inflated, which in one go takes the loop for tens of
milliseconds, and all that memory before the limit is looked at.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import CTRL_OPCODES, Frame, Opcode

EMPTY_BLOCK = b"\x00\x00\xff\xff"  # with which each message ended before it was sent


class Deflate(PerMessageDeflate):
    """is_deflated: the message that is coming, from its first frame on."""

    is_deflated = False

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """As it is. For `Protocol`, by which a message that is not inflated has no bits reserved."""
        if frame.opcode in CTRL_OPCODES or frame.opcode is Opcode.CONT:
            return frame
        self.is_deflated = frame.rsv1
        if not frame.rsv1:
            return frame
        if self.remote_no_context_takeover:
            self.decoder = zlib.decompressobj(wbits=-self.remote_max_window_bits)
        return dataclasses.replace(frame, rsv1=False)

    def end(self) -> None:
        """All of the message has been inflated. Where the next one begins anew, its window is not kept."""
        if self.remote_no_context_takeover:
            del self.decoder


class _Factory(ServerPerMessageDeflateFactory):
    def process_request_params(
        self, params: Sequence[tuple[str, str | None]], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[tuple[str, str | None]], Any]:
        response, extension = super().process_request_params(params, accepted_extensions)
        return response, Deflate(
            extension.remote_no_context_takeover,
            extension.local_no_context_takeover,
            extension.remote_max_window_bits,
            extension.local_max_window_bits,
            extension.compress_settings,
        )


# As `websockets` advises for servers: windows of 4 KiB and smaller tables compress nearly as well as zlib's own.
OFFERED = [_Factory(server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5})]
