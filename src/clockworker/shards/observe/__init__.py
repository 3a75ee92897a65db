"""Statistics as others want them.

In reading order:

    _ledger         the supervisor's books: readings, summed over incarnations
    _view           what they mean
    _metrics        as Prometheus wants them; _page, the text
    _http           the pages; _http_head, HTTP's part
    _query          the control socket
    _admission      how tools are let in
"""
