#!/bin/sh
# torch 2.13.0 on a CPU: torch.set_num_threads(2) in one thread is undone by torch.set_num_threads(1) in another, as long
# as the first has not yet asked for its number, or run a parallel operation. Documented is a number for "intraop
# parallelism on CPU", without a word on threads; the OpenMP setting behind it belongs to the thread that makes it.
# Once a thread has asked, its number is its own.
# Seen: {'set, not asked': 1, 'set and asked': 2}
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import threading

import torch

numbers = {}


def number_after_another_thread_set_one(name, ask):
    is_set, other_is_set = threading.Event(), threading.Event()

    def first():
        torch.set_num_threads(2)
        if ask:
            torch.get_num_threads()
        is_set.set()
        other_is_set.wait()
        numbers[name] = torch.get_num_threads()

    def other():
        is_set.wait()
        torch.set_num_threads(1)
        other_is_set.set()

    threads = [threading.Thread(target=target) for target in (first, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


number_after_another_thread_set_one("set, not asked", ask=False)
number_after_another_thread_set_one("set and asked", ask=True)
print(numbers)
assert numbers == {"set, not asked": 1, "set and asked": 2}
PYTHON
