"""The floor of `bench hostile`: a server in C that accepts, reads, and closes whatever is no light request, which it knows by
its host. What this one does not reach is out of every server's reach on that machine."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench._http_servers import START_S, allowed, answers, prefer

# One thread, on epoll. It is given its port, and how many microseconds of the CPU a light request takes.
_SOURCE = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char ANSWER[] = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\ncontent-type: application/json\r\n\r\n{\"done\":true}";

static char data[262144];

static void burn(long us)
{
    struct timespec began, now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &began);
    do
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    while ((now.tv_sec - began.tv_sec) * 1000000 + (now.tv_nsec - began.tv_nsec) / 1000 < us);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event event = {.events = EPOLLIN}, events[64];
    int one = 1, listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
    long us = argc > 2 ? atol(argv[2]) : 500;

    address.sin_port = htons(argc > 1 ? atoi(argv[1]) : 8000);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 2048)) {
        perror("bind");
        return 1;
    }
    event.data.fd = listening;
    epoll_ctl(poll, EPOLL_CTL_ADD, listening, &event);
    for (;;) {
        int count = epoll_wait(poll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listening) {
                fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK);
                if (fd >= 0) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    event.data.fd = fd;
                    epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
                }
                continue;
            }
            ssize_t size = read(fd, data, sizeof data);
            if (size > 0 && memmem(data, size, "Host: 127.0.0.1", 15)) {
                burn(us);
                if (write(fd, ANSWER, sizeof ANSWER - 1) < 0)
                    close(fd);
            } else
                close(fd);
        }
    }
}
"""


@contextlib.contextmanager
def floor(port: int, us: float, cores: Sequence[int]) -> Iterator[int]:
    """Its pid. us: of CPU time for a light request. Raises SystemExit without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("the floor is a server in C, and there is no compiler: install cc")
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "floor"
        subprocess.run([compiler, "-O2", "-o", program, "-x", "c", "-"], input=_SOURCE.encode(), check=True)
        with allowed(cores):
            process = subprocess.Popen([program, str(port), str(round(us))], start_new_session=True)
        try:
            prefer(process.pid)
            deadline = time.monotonic() + START_S
            while not answers(port, "/light"):
                if time.monotonic() > deadline:
                    raise SystemExit("the floor did not start")
                time.sleep(0.05)
            yield process.pid
        finally:
            process.kill()
            process.wait()
