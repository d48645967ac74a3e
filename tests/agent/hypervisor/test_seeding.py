"""The seed that cloud-init finds: its texts mean what they should, whatever stands in them."""

import json
import subprocess

import yaml

from paddock.agent.bundle.bundled import ARCHIVE
from paddock.agent.keys import line
from paddock.agent.skills.hypervisor.images import seeding


def test_a_seed_is_two_texts_and_the_agent() -> None:
    files = seeding.files(b"zip", "paddock-1-image-2")

    assert set(files) == {"meta-data", "user-data", ARCHIVE}
    assert files[ARCHIVE] == b"zip"
    assert json.loads(files["meta-data"])["instance-id"] == "paddock-1-image-2"


def test_cloud_init_reads_it_as_its_own_configuration() -> None:
    head, _, rest = seeding.user_data().partition("\n")
    told = yaml.safe_load(rest)

    assert head == "#cloud-config"
    assert told["runcmd"] == [["sh", "-c", seeding.install()]]
    assert not told["package_update"], "there is no network"
    assert told["ssh_genkeytypes"] == [], "an image holds no host keys"


def test_what_installs_the_agent_is_a_script_that_a_shell_can_read() -> None:
    subprocess.run(["sh", "-n", "-c", seeding.install()], check=True)

    assert f"--line {line(seeding.LINE)}" in seeding.install()


def test_two_builds_are_two_instances() -> None:
    assert seeding.meta_data("image-1") != seeding.meta_data("image-2")
