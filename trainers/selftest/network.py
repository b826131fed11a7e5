"""Attempts to reach somebody: on the provider's machine, on its network, and out."""

from __future__ import annotations

import contextlib
import socket

from trainers.outward.door import PORT
from trainers.selftest.scene import BOOTY, Absent, Scene, Stopped

WAIT_S = 0.5
METADATA = "169.254.169.254"
OUTSIDE = "203.0.113.1"  # of a network that is for documentation; only the route is asked for, nothing is sent


def tcp(scene: Scene) -> str:
    """A program that listens on the provider's loopback device, as Ray and the market do."""
    with socket.create_connection(("127.0.0.1", scene.tcp), WAIT_S) as connection:
        return _greeted(connection)


def api(scene: Scene) -> str:
    """The market's API, with a key that was stolen."""
    with socket.create_connection(("127.0.0.1", scene.api), WAIT_S) as connection:
        connection.sendall(f"GET /v1/members HTTP/1.0\r\nAuthorization: Bearer {scene.key}\r\n\r\n".encode())
        answer = connection.recv(4096)
    if b"200 OK" not in answer:
        raise Stopped("another answer")
    return "the market answered"


def udp(scene: Scene) -> str:
    """A datagram to the provider's machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(WAIT_S)
        datagrams.connect(("127.0.0.1", scene.udp))
        datagrams.send(b"hello")
        return _greeted(datagrams)


def abstract_socket(scene: Scene) -> str:
    """A socket without a file, which no mount hides."""
    return _local("\0" + scene.abstract)


def file_socket(scene: Scene) -> str:
    """A socket in the provider's folders."""
    return _local(scene.address)


def raw(scene: Scene) -> str:
    """Packets of its own making."""
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return "a raw socket"


def packet(scene: Scene) -> str:
    """Everybody's packets."""
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    return "a packet socket"


def vsock(scene: Scene) -> str:
    """The host of a virtual machine, past all network namespaces."""
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    return "a socket to the host"


def audit(scene: Scene) -> str:
    """The kernel's audit and other services over netlink."""
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9).close()
    return "an audit socket"


def crypto(scene: Scene) -> str:
    """The kernel's ciphers over sockets, which have a history."""
    socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).close()
    return "a socket to the kernel's ciphers"


def metadata(scene: Scene) -> str:
    """The address where clouds hand out their machines' keys."""
    return _route(METADATA)


def outward(scene: Scene) -> str:
    """Anybody on the internet."""
    return _route(OUTSIDE)


def through_to_loopback(scene: Scene) -> str:
    """The provider's own programs, through the way out."""
    return _through(f"127.0.0.1:{scene.tcp}")


def through_by_name(scene: Scene) -> str:
    """The same by a name that leads there."""
    return _through(f"localhost:{scene.tcp}")


def through_disguised(scene: Scene) -> str:
    """The same by addresses of other forms."""
    forms = (f"[::ffff:127.0.0.1]:{scene.tcp}", f"2130706433:{scene.tcp}", f"0x7f.1:{scene.tcp}", f"0:{scene.tcp}", f"[::]:{scene.tcp}",
             f"[64:ff9b::7f00:1]:{scene.tcp}")  # fmt: skip
    for form in forms:
        with contextlib.suppress(Stopped):
            return _through(form)
    raise Stopped("refused in every form")


def through_to_page(scene: Scene) -> str:
    """The same by a request that is not a tunnel."""
    with _door() as connection:
        connection.sendall(f"GET http://127.0.0.1:{scene.tcp}/ HTTP/1.1\r\nHost: example.org\r\n\r\n".encode())
        return _greeted(connection)


def through_with_key(scene: Scene) -> str:
    """The market's API with a stolen key, through the way out."""
    with _door() as connection:
        request = f"GET http://127.0.0.1:{scene.api}/v1/members HTTP/1.1\r\nAuthorization: Bearer {scene.key}\r\n\r\n"
        connection.sendall(request.encode())
        answer = connection.recv(4096)
    if b"200 OK" not in answer:
        raise Stopped(_said(answer))
    return "the market answered"


def through_to_metadata(scene: Scene) -> str:
    """The address where clouds hand out their machines' keys, through the way out."""
    return _through(f"{METADATA}:80")


def own_network(scene: Scene) -> str:
    """The provider's own address, and so its network."""
    with open("/proc/net/fib_trie", encoding="ascii") as file:
        words = [line.split()[-1] for line in file if line.strip().startswith("|--")]
    found = [word for word in words if not word.startswith(("127.", "0.")) and not word.endswith((".0", ".255"))]
    if not found:
        raise Stopped("no address but its own loopback")
    return f"this machine is {found[0]}"


def _door() -> socket.socket:
    """The way out, which must be there. Raises Absent without one."""
    try:
        return socket.create_connection(("127.0.0.1", PORT), WAIT_S)
    except OSError as error:
        raise Absent(f"no way out: {error}") from None


def _through(target: str) -> str:
    with _door() as connection:
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
        answer = connection.recv(4096)
        if b" 200 " not in answer.partition(b"\r\n")[0]:
            raise Stopped(_said(answer))
        return f"a tunnel to {target}"


def _said(answer: bytes) -> str:
    return answer.partition(b"\r\n")[0].decode("utf-8", "replace") or "nothing came"


def _greeted(connection: socket.socket) -> str:
    if BOOTY.encode() not in connection.recv(4096):
        raise Stopped("somebody else answered")
    return "it answered"


def _local(address: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(WAIT_S)
        connection.connect(address)
        return _greeted(connection)


def _route(address: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect((address, 80))
        return f"there is a way to {address}"
