"""A real S3-compatible server (moto's) on loopback, in a process of its own that ends with whoever started it."""

import contextlib
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from storage.object_stores import S3Access

_SERVE = "from moto.server import main; main(['-H', '127.0.0.1', '-p', '0'])"


@dataclass(frozen=True)
class S3Server:
    endpoint: str

    @property
    def access(self) -> S3Access:
        return S3Access(self.endpoint, "us-east-1", "an-id", "a-secret")

    def make_bucket(self, name: str) -> str:
        """Its URL."""
        with urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")) as answer:
            assert answer.status == 200
        return f"s3://{name}"


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    process = subprocess.Popen([sys.executable, "-c", _SERVE], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            raise AssertionError("".join(said))
        rest = threading.Thread(target=process.stderr.read, daemon=True)
        rest.start()
        yield S3Server(found[0])
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
