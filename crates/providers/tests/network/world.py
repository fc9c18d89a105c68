"""Servers of a world that tests look at through a sandbox. Whatever reaches one is written down, a
line each: what, at which address and port. Arguments: a name, the address to answer lookups at or
`-`, then the addresses to serve."""

import json
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAMES = {
    "world.test": "203.0.113.10",
    "inner.test": "10.77.0.10",
    "metadata.test": "169.254.169.254",
}
lock = threading.Lock()


def note(what, address, port):
    with lock:
        print(f"{what} {address} {port}", flush=True)


class Web(BaseHTTPRequestHandler):
    def do_GET(self):
        note("tcp", *self.connection.getsockname())
        if self.path == "/large":
            body = bytes(range(256)) * 16384
        else:
            body = json.dumps({"name": self.headers["Host"], "path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def in_thread(function, *arguments):
    threading.Thread(target=function, args=arguments, daemon=True).start()


def echo_connection(connection):
    note("tcp", *connection.getsockname())
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()


def echo_tcp(server):
    while True:
        in_thread(echo_connection, server.accept()[0])


def echo_udp(server, address):
    while True:
        data, peer = server.recvfrom(65536)
        note("udp", address, server.getsockname()[1])
        server.sendto(data, peer)


def answer(query):
    """The answer to a lookup of an address; nothing else is known."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    kind = struct.unpack_from(">H", query, at + 1)[0]
    question = query[12 : at + 5]
    address = NAMES.get(".".join(labels))
    found = b""
    if address and kind == 1:
        found = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(address)
    code = 0x8180 if address else 0x8183
    return query[:2] + struct.pack(">HHHHH", code, 1, bool(found), 0, 0) + question + found


def lookups(server):
    while True:
        query, peer = server.recvfrom(4096)
        server.sendto(answer(query), peer)


def udp(address, port):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    return server


def main():
    _, resolver, *addresses = sys.argv[1:]
    for address in addresses:
        in_thread(ThreadingHTTPServer((address, 8080), Web).serve_forever)
        in_thread(echo_tcp, socket.create_server((address, 7007)))
        in_thread(echo_udp, udp(address, 7007), address)
    # Whatever comes by group or by broadcast.
    group = udp("", 5353)
    for wanted in ("224.0.0.251", "239.1.2.3"):
        for address in addresses:
            membership = socket.inet_aton(wanted) + socket.inet_aton(address)
            try:
                group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            except OSError:
                pass
    in_thread(echo_udp, group, "group")
    if resolver != "-":
        in_thread(echo_tcp, socket.create_server((resolver, 54)))
        in_thread(lookups, udp(resolver, 53))
    note("ready", "-", 0)
    sys.stdin.read()


main()
