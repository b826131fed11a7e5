"""Deposits over HTTP: a real exchange process, and clients with a connection and a key each that wait for every answer.

    python -m benchmarks.ledger_http PORT SECONDS KEY…      one process with a client for each key; prints {"done", "seconds"}
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from market.client import Market
from market.homes import Home


def deposits_per_s(folder: Path, clients: int, seconds: float) -> dict[str, float]:
    """{http_deposits_per_s, http_exchange_cpu_us}: acknowledged deposits; the exchange's processor time for each."""
    folder.mkdir(parents=True)
    log = (folder / "log").open("wb")
    words = [sys.executable, "-m", "market.api.process", "--home", str(folder / "home")]
    server = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        port = _port(server, folder / "log")
        keys = Home(folder / "home").read_keys()
        market = Market(f"http://127.0.0.1:{port}", keys["operator"])
        own = [market.add_member(f"op{number}", "operator")["key"] for number in range(clients)]
        before = _cpu_s(server.pid)
        caller = [sys.executable, "-m", "benchmarks.ledger_http", str(port), str(seconds), *own]
        told = json.loads(subprocess.run(caller, check=True, capture_output=True, text=True).stdout)
        assert market.balance("customer")["wallet_nanos"] == told["done"], "an acknowledged deposit is missing"
        spent = _cpu_s(server.pid) - before
        return {"http_deposits_per_s": told["done"] / told["seconds"], "http_exchange_cpu_us": spent / told["done"] * 1e6}
    finally:
        server.terminate()
        server.wait()
        log.close()


def _port(server: subprocess.Popen[bytes], log: Path) -> int:
    while True:
        assert server.poll() is None, log.read_text()
        for line in log.read_text().splitlines():
            if " answers with " in line:
                return int(line.partition("http://127.0.0.1:")[2].split()[0].strip("/"))
        time.sleep(0.05)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _client(port: int, number: int, key: str, until: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/deposits HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    done = 0
    while time.perf_counter() < until:
        body = f'{{"id":"h{number}-{done}","account":"customer","amount_nanos":1}}'
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 201"), answer
        length = int(answer.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        done += 1
    writer.close()
    return done


async def _clients(port: int, seconds: float, keys: list[str]) -> None:
    began = time.perf_counter()
    done = sum(await asyncio.gather(*(_client(port, one, key, began + seconds) for one, key in enumerate(keys))))
    print(json.dumps({"done": done, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    asyncio.run(_clients(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
