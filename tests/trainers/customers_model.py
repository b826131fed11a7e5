"""A customer's file for the child tests: trains well, or does what `options.do` says. Sent to children as source."""

import asyncio
import ctypes
import os
import socket
import subprocess
import sys
import threading
import time

import torch

from trainers.workload import Workload


class Customer(Workload):
    def model(self):
        print("making the model")
        return torch.nn.Linear(4, 1)

    def batch(self, seed, step, worker):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step * 1009 + worker)
        inputs = torch.randn(16, 4, generator=generator)
        return inputs, inputs.sum(dim=1, keepdim=True)

    def held_out(self):
        return [self.batch(999, 0, 0)]

    def loss(self, model, batch):
        getattr(self, self.options.get("do", "train_well"))(model)
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1]) * self.factor

    factor = 1.0
    figures = 0

    def metrics(self, model, batch):
        return {f"figure {number}": 0.5 for number in range(self.figures)}

    def measure_too_much(self, model):
        self.figures = 17

    def train_well(self, model):
        pass

    def raise_error(self, model):
        raise RuntimeError("my own mistake")

    def make_nan_at_first(self, model):
        self.calls = getattr(self, "calls", 0) + 1
        self.factor = float("nan") if self.calls <= 2 else 1.0

    def hang(self, model):
        time.sleep(3600)

    def serve_for_ever(self, model):
        threading.Thread(target=time.sleep, args=(3600,)).start()
        asyncio.new_event_loop().run_until_complete(asyncio.sleep(3600))

    def die_quietly(self, model):
        os._exit(7)

    def attack(self, model):
        for name, attempt in sorted(attempts(self.options).items()):
            try:
                print(f"{name}: DONE {attempt()}")
            except Exception as error:  # noqa: BLE001  each attempt may fail in its own way
                print(f"{name}: refused {type(error).__name__}")
        print(f"environment: {','.join(sorted(os.environ))}")
        print(f"scratch: {sorted(os.listdir('.'))}")
        sys.stdout.flush()


def attempts(options):
    libc = ctypes.CDLL(None, use_errno=True)

    def raw_fork():
        if libc.syscall(ctypes.c_long(57)) == -1:
            raise OSError(ctypes.get_errno(), "fork")

    def start_thread():
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        return "a thread"

    def memory_file():
        return os.memfd_create("hidden")

    return {
        "fork": os.fork,
        "raw_fork": raw_fork,
        "subprocess": lambda: subprocess.run(["/bin/true"], check=True),
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "tcp": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "unix": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        "kill_parent": lambda: os.kill(options["parent_pid"], 0),
        "unshare": lambda: os.unshare(0x10000000) if hasattr(os, "unshare") else raw_unshare(libc),
        "key": lambda: open(options["key"]).read(),
        "write_system": lambda: open("/usr/torg-was-here", "w"),
        "memory_file": memory_file,
        "parents_memory": lambda: open(f"/proc/{options['parent_pid']}/environ", "rb").read(),
        "start_thread": start_thread,
    }


def raw_unshare(libc):
    if libc.unshare(0x10000000) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
