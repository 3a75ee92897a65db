"""What looks at a running server from outside.

In reading order:

    _top            clockworker-top; _screen, what it shows
    _chrome         a trace, for the browser
"""
