"""A deliverer that is killed when the archive has accepted a result and before that is on record.

python -m tests.support.killed_deliverer ROOT PORT
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from medattn_edge.scanner.config.sections import Destination
from medattn_edge.scanner.deliver.deliverer import Deliverer
from medattn_edge.scanner.observe.log import Log
from tests.support.durable_node import Node


def main() -> None:
    node = Node(Path(sys.argv[1]))
    node.now = 2_000_000.0
    node.store.deliveries.record_delivered = lambda delivery: os.kill(os.getpid(), signal.SIGKILL)
    destination = Destination("pacs", host="127.0.0.1", port=int(sys.argv[2]), ae_title="PACS")
    Deliverer(destination, node.custody, Log(), "MEDATTN").deliver_due()


if __name__ == "__main__":
    main()
