"""`python hold_lock.py DIRECTORY LEASE HEARTBEAT`: holds the lock of a directory until its input ends.

Its times are others than those of commands, in seconds. It prints "held", and for each line of its input "ok"
or the error of `check`."""

import sys
import time

from data_pipelines import lock_holders


def main(directory, lease, heartbeat):
    lock_holders.LEASE_SECONDS, lock_holders.HEARTBEAT_SECONDS = float(lease), float(heartbeat)
    from data_pipelines.directory_lock import lock_of_contents  # takes the times when it is imported

    began = time.monotonic()
    try:
        with lock_of_contents(directory) as lock:
            print(f"held after {time.monotonic() - began:.1f}", flush=True)
            for _ in sys.stdin:
                try:
                    lock.check()
                    print("ok", flush=True)
                except OSError as error:
                    print(f"{type(error).__name__}: {error}", flush=True)
    except OSError as error:
        print(f"{type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
