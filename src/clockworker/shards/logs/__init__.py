"""Log lines.

In reading order:

    _logging        lines that name shard and queue, as text or JSON; log files opened anew
    _log_stream     standard error, without waiting for its reader
    _log_config     --log-config
    _log_limit      policy: how often the same thing is worth a line
"""
