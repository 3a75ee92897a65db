"""What a connection of HTTP/1.1 waits for: `HttpConnection.state`."""

IDLE = 0  # the first byte of a request
HEAD = 1  # the rest of a head
BODY = 2  # the rest of a body
PARSED = 3  # nothing: a whole request has come
LINGERING = 4  # its client to close, who may still be sending what nobody reads
