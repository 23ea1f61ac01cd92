"""Downloads of the public data sets, through torchvision's addresses and checksums."""

import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lightning_gen.core import InputError

SECONDS_WITHOUT_ANSWER = 20


def download(urls: Sequence[str], md5: str, target: Path, remedy: str) -> None:
    """Fetch ``target`` from the first of ``urls`` that gives a file of checksum ``md5``.

    The file appears under its name only when it is complete, so processes may do this at once and may be killed.

    Raises:
        InputError: naming the last address tried and ``remedy`` where none works.
    """
    from torchvision.datasets.utils import download_url

    target.parent.mkdir(parents=True, exist_ok=True)
    waiting = socket.getdefaulttimeout()
    # torchvision passes no timeout, and on a network that drops packets would wait for ever.
    socket.setdefaulttimeout(SECONDS_WITHOUT_ANSWER)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
            for url in urls:
                try:
                    download_url(url, folder, target.name, md5)
                except (OSError, RuntimeError) as error:
                    failure = f"{url}: {error}"
                else:
                    os.replace(Path(folder, target.name), target)
                    return
    finally:
        socket.setdefaulttimeout(waiting)
    raise InputError(f"download failed ({' '.join(failure.split())}); {remedy}")
