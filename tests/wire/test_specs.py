"""Images on the wire: what one side does not know yet, or not any more, is no trouble to the other."""

from dataclasses import replace
from datetime import timedelta

import pytest

from paddock.core.image import BuildScript, Entry, Image, recipe
from paddock.wire.fields import BadParams
from paddock.wire.specs import chain_params, read_image

DEBIAN = Image(name="debian", url="https://a.org/debian.qcow2", sha256="0" * 64, entry=Entry.HELPER, restart=("ssh",))
WEB = Image(
    name="web",
    parent="debian",
    size=8 << 30,
    scripts=(BuildScript(name="one", run="true", env={"A": "1"}, files={"/etc/motd": "hello\n"}),),
    limit=timedelta(minutes=5),
    egress=("opendev.org:443", "*.a.org:80"),
)


def test_a_chain_is_told_as_it_is() -> None:
    assert [read_image(one, "chain") for one in chain_params((DEBIAN, WEB))] == [DEBIAN, WEB]


def test_a_server_that_knows_no_egress_tells_of_images_without_one() -> None:
    (told,) = chain_params((WEB,))
    assert isinstance(told, dict)
    former = {key: value for key, value in told.items() if key != "egress"}
    assert read_image(former, "chain").egress == ()


def test_what_a_later_server_says_of_an_image_is_overlooked() -> None:
    (told,) = chain_params((WEB,))
    assert isinstance(told, dict)
    assert read_image({**told, "later": {"than": "this"}}, "chain") == WEB


def test_egress_that_is_no_list_of_texts_is_refused_by_its_name() -> None:
    (told,) = chain_params((WEB,))
    assert isinstance(told, dict)
    with pytest.raises(BadParams, match="egress"):
        read_image({**told, "egress": [443]}, "chain")


def test_egress_says_nothing_about_what_a_layer_is() -> None:
    assert recipe((DEBIAN, replace(WEB, egress=("b.org:443",)))) == recipe((DEBIAN, WEB))
