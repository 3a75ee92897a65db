"""HTTP: ASGI and WSGI applications served unchanged, each request a task of the queue that its route chooses.

In reading order:

    _application    what `clockworker-serve` is given: an ASGI or a WSGI application; cw.asgi, cw.wsgi
    _serve          serving one in a shard: lifespan, server, drain
    _lifespan       its start-up and shutdown
    _server         the connections of a server: their limits in time, and their end at the stop
    _connection_cy  HTTP/1.1: a connection; _incoming_cy, from bytes to requests; _outgoing_cy, from responses to bytes;
                    _states, what it waits for
    _file           files that are bodies
    _half_closed    clients that have said all, and may still listen
    _http2          HTTP/2: a connection; _http2_stream, a request of it; _http2_frames, what its client may send; _http2_heads
    _tls            what HTTP's servers offer in handshakes, and say of them
    _request_cy     one request: receive, send, framing
    _targets_cy     where requests run, and what is counted of them
    _placed         requests that run on another shard
    _head           heads of responses
    _routes         which route is a request's; _marks, those that endpoints carry
    _proxy          what a proxy says of its client; _forwarded, in one header; _proxy_protocol, before the first request
    _access         a line for each request; _access_format, in gunicorn's words
    _websocket      WebSockets; _websocket_inbox_cy, what waits for the application; _websocket_frames_cy, from frames to
                    messages and back
    _wsgi           WSGI applications, in threads; _environ, what they are told; _pipes, bodies to and from a thread;
                    _lent, to the client's socket itself; _wsgi_in_queue, in a queue
    _threads        what --threads is to libraries; _in_queue, functions that run in a queue instead
    socketio        for applications: the client manager of python-socketio; its extra's
    channels        for applications: the channel layer of Django Channels; _mailboxes, where its messages wait

executor <- ipc <- shards <- http: `shards` imports this only inside functions, for who serves HTTP.
"""

from clockworker.http import _mailboxes as _mailboxes  # whose functions any shard may be called for
from clockworker.http._application import asgi, wsgi
from clockworker.http._marks import queue
from clockworker.shards.config._http import Route

__all__: list[str] = ["Route", "asgi", "queue", "wsgi"]
