"""On PYTHONPATH, Python imports this at its start: from then on the process reaches its own machine alone.

Every attempt at more is refused, and written with its stack into the file that ATTEMPTS_FILE names. Compiled parts
that open sockets by themselves, as wandb's service, are not seen from here.
"""

import ipaddress
import os
import sys
import traceback

ASKING = {"socket.getaddrinfo": 0, "socket.gethostbyname": 0, "socket.gethostbyaddr": 0}
"""events with the place of the host's name among their arguments"""
REACHING = {"socket.connect", "socket.sendto", "socket.sendmsg"}
"""events whose second argument is an address"""


def is_here(host):
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def guard(event, arguments):
    if event in ASKING:
        host = arguments[ASKING[event]]
    elif event in REACHING and isinstance(arguments[1], tuple):  # a socket of the file system has a path
        host = arguments[1][0]
    else:
        return
    if not is_here(host):
        with open(os.environ["ATTEMPTS_FILE"], "a", encoding="utf-8") as file:
            file.write(f"{event} {host}\n{''.join(traceback.format_stack())}\n")
        raise OSError(f"no network in this test: {event} {host}")


sys.addaudithook(guard)
