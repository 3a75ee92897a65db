"""Statistics as others want them.

In reading order:

    _ledger         the supervisor's books: readings, summed over incarnations
    _view           what they mean
    _metrics        as Prometheus wants them; _page, the text
    _http           the pages; _http_head, HTTP's part
    _live           the page for people, which is in live/
    _query          what is said at the control socket; _query_server, the supervisor's side; _query_client, the tools'
    _query_paths    where control sockets are
    _admission      how tools are let in
"""
