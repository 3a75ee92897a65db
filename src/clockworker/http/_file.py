"""A file that is a response's body (`http.response.pathsend`), read in threads."""

from __future__ import annotations

import os
import stat

PIECE = 262_144  # bytes that are read at once


class File:
    """To make one and to read waits for the disk. size: in bytes, when it was opened. has_read: a piece is there already."""

    def __init__(self, path: str) -> None:
        """Opens it and reads the beginning, which is all of most. Raises `OSError`, for what is no file, too."""
        self._descriptor = os.open(
            path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        )  # a pipe would wait for its other end
        try:
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(f"{path!r} is no file")
            self.size = status.st_size
            self._first = os.read(self._descriptor, PIECE)
            self.has_read = True
        except BaseException:
            os.close(self._descriptor)
            raise

    def take(self, most: int) -> bytes:
        """The piece that is there."""
        data, self._first, self.has_read = self._first[:most], b"", False
        return data

    def read(self, most: int) -> bytes:
        return os.read(self._descriptor, min(PIECE, most))

    def close(self) -> None:
        os.close(self._descriptor)
