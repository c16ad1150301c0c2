"""Runs a command of troth on its terminal, once for each width: ``WIDTH,WIDTH... COMMAND...``.

A form feed ends what each run has printed.
"""

from __future__ import annotations

import fcntl
import struct
import sys
import termios

from troth.cli.app import run

for width in sys.argv[1].split(","):
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, int(width), 0, 0))
    run(sys.argv[2:])
    sys.stdout.flush()
    sys.stdout.write("\f")
    sys.stdout.flush()
