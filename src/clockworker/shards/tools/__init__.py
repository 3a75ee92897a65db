"""What looks at a running server from outside.

In reading order:

    _top            clockworker-top; _servers, of which server; _screen, what it shows
    _chrome         a trace, for the browser
"""
