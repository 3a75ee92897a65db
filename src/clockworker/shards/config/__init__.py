"""What is to run: the command line, the environment and the file, put together into one frozen `ServeConfig`.

In reading order:

    _settings       command line, environment and file, each over the next
    _options        the table of all options; _option, what one is; _http_options, those of HTTP
    _other_names    what other servers call them
    _arguments      the command line and its help
    _environment    --env-file
    _file           clockworker.toml
    _keywords       serve()'s keywords
    _queues         queues, as text and as tables; _groups, groups of them; _routes, routes of HTTP
    _toml           reading TOML, and writing its values; _text, text files as other systems write them
    _parse          how each value is read from text; _access_format, of the access log's lines
    _config         ServeConfig and its parts; _http, those that HTTP has; _patterns, what a route says of paths
    _declaration    what an application says of itself: the queues that it needs
    _schedulers     the schedulers by name, and the application's own
    _spelling       what somebody probably meant
    _print          --print-config
    _application    finding the application
"""
