"""What the machine is, and what processes of ours need of it.

In reading order:

    _topology       what the kernel says of the CPUs and of quotas
    _placement      policy: how many shards, and which runs where
    _sockets        the listening sockets
    _certificates   TLS, as the options have it
    _machine        what there has to be before anything starts
    _heritage       signals and descriptors that whoever starts a process leaves to it
    _host           open files, the pid file, titles, and the end with one's parent
    _systemd        sockets from, and notices to, whoever started the supervisor
    _terminal       the terminal, for breakpoint()
"""
