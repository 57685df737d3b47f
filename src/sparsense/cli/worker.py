"""The command line in a process that ends when the sweep that started it is gone."""

from __future__ import annotations

import os
import threading


def follow_parent() -> None:
    """End this process at once when the other side of its standard input is closed, as by a kill of the sweep.

    What the run has finished is kept beside its output by the pipeline, as after any kill.
    """

    def wait() -> None:
        while os.read(0, 1024):  # not sys.stdin: its lock must be free when the program ends
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    from sparsense.cli import main

    follow_parent()
    main()
