"""A NoCloud seed: how cloud-init puts our agent into a foreign image, without a network.

Effects: none; it makes texts.
"""

import json
import shlex
from collections.abc import Mapping

from paddock.agent.bundle.bundled import ARCHIVE

LINE = "virtio:/dev/virtio-ports/org.paddock.0"
LABEL = "cidata"
DONE = "/var/lib/paddock-seeded"

_INSTALL = """\
set -eu
seed=$(mktemp -d)
mount -o ro "$(blkid -t LABEL={label} -o device | head -n 1)" "$seed"
mkdir -p /opt/paddock-agent/bin
cp "$seed/{archive}" /opt/paddock-agent/bin/{archive}
umount "$seed"
rmdir "$seed"
cd /
python3 -I /opt/paddock-agent/bin/{archive} configure --line {line} --parked yes --on-boot yes --user root
systemctl daemon-reload
systemctl enable --now paddock-agent.service
touch {done}
"""


def files(archive: bytes, name: str) -> Mapping[str, bytes]:
    """Everything on the seed drive: its two texts, and the agent."""
    return {"meta-data": meta_data(name).encode(), "user-data": user_data().encode(), ARCHIVE: archive}


def meta_data(name: str) -> str:
    """An instance that is no other: cloud-init does everything once for each."""
    return json.dumps({"instance-id": name, "local-hostname": "image"}) + "\n"


def user_data() -> str:
    """JSON is YAML: nothing in a script can end a scalar.

    Host keys are not made and nothing is grown that a machine of this image could not do itself: it gets its own keys.
    """
    told = {
        "ssh_deletekeys": False,
        "ssh_genkeytypes": [],
        "package_update": False,
        "runcmd": [["sh", "-c", install()]],
    }
    return f"#cloud-config\n{json.dumps(told, indent=1)}\n"


def install() -> str:
    """What puts the agent into the machine that it runs on, and starts it."""
    return _INSTALL.format(label=LABEL, archive=ARCHIVE, line=shlex.quote(LINE), done=DONE)
