"""How clouds tell an instance of itself: what is asked over HTTP, and what the answers mean.

Effects: none. The answers are strangers' words: what is not of the form that is looked for is not there.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from paddock.agent.cloud.facts import KEY, CloudFacts, code_in, word, words

Answers = Mapping[str, bytes]
"""Path → body, of those that were answered well."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """`paths` are asked all at once, with `headers`. With a `session` that path is asked first, by PUT.

    `session` is (path, headers), and its answer is sent along as `session_header`; where it is not known the paths
    are asked without. `proof` is a header that an answer must bear.
    """

    name: str
    paths: tuple[str, ...]
    read: Callable[[Answers], CloudFacts | None]
    headers: Mapping[str, str] = field(default_factory=dict)
    session: tuple[str, Mapping[str, str]] | None = None
    session_header: str = ""
    proof: tuple[str, str] | None = None


_META = "/latest/meta-data/"
_INSTANCE, _LOCAL, _PUBLIC = f"{_META}instance-id", f"{_META}local-ipv4", f"{_META}public-ipv4"
_TAG, _USER_DATA = f"{_META}tags/instance/{KEY}", "/latest/user-data"
_OPENSTACK, _OPENSTACK_USER = "/openstack/latest/meta_data.json", "/openstack/latest/user_data"
_AZURE = "/metadata/instance?api-version=2021-02-01"
_GOOGLE = "/computeMetadata/v1/instance/?recursive=true"


def ec2(answers: Answers) -> CloudFacts | None:
    """As Amazon tells it, and those who do as Amazon does."""
    instance = word(_text(answers, _INSTANCE))
    if not instance:
        return None
    code = word(_text(answers, _TAG)) or code_in(_text(answers, _USER_DATA))
    addresses = words(_text(answers, _LOCAL), _text(answers, _PUBLIC))
    return CloudFacts(name="Amazon", instance=instance, addresses=addresses, code=code)


def openstack(answers: Answers) -> CloudFacts | None:
    """As Nova tells it, by HTTP or on a config drive."""
    told = _object(answers, _OPENSTACK)
    instance = word(told.get("uuid"))
    if not instance:
        return None
    code = word(_map(told.get("meta")).get(KEY)) or code_in(_text(answers, _OPENSTACK_USER))
    return CloudFacts(name="OpenStack", instance=instance, code=code)


def azure(answers: Answers) -> CloudFacts | None:
    """As Azure's instance metadata service tells it."""
    told = _object(answers, _AZURE)
    compute = _map(told.get("compute"))
    instance = word(compute.get("vmId"))
    if not instance:
        return None
    tags = {str(tag.get("name")): tag.get("value") for tag in _maps(compute.get("tagsList"))}
    addresses = [
        address.get(name)
        for interface in _maps(_map(told.get("network")).get("interface"))
        for family in ("ipv4", "ipv6")
        for address in _maps(_map(interface.get(family)).get("ipAddress"))
        for name in ("privateIpAddress", "publicIpAddress")
    ]
    code = word(tags.get(KEY)) or code_in(_decoded(compute.get("userData")))
    return CloudFacts(name="Azure", instance=instance, addresses=words(*addresses), code=code)


def google(answers: Answers) -> CloudFacts | None:
    """As Google's metadata server tells it."""
    told = _object(answers, _GOOGLE)
    instance = word(told.get("id"))
    if not instance:
        return None
    interfaces = _maps(told.get("networkInterfaces"))
    outer = [access.get("externalIp") for one in interfaces for access in _maps(one.get("accessConfigs"))]
    attributes = _map(told.get("attributes"))
    code = word(attributes.get(KEY)) or code_in(str(attributes.get("user-data", "")))
    addresses = words(*(one.get("ip") for one in interfaces), *outer)
    return CloudFacts(name="Google", instance=instance, addresses=addresses, code=code)


def config_drive(meta_data: bytes, user_data: bytes) -> CloudFacts | None:
    """The files `openstack/latest/meta_data.json` and `user_data` of a config drive."""
    return openstack({_OPENSTACK: meta_data, _OPENSTACK_USER: user_data})


def nocloud(meta_data: bytes, user_data: bytes) -> CloudFacts | None:
    """The files `meta-data` (YAML) and `user-data` of a NoCloud seed."""
    # Only where there is such a seed.
    import yaml

    try:
        told = _map(yaml.safe_load(meta_data.decode("utf-8", "replace")))
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    instance = word(told.get("instance-id")) or word(told.get("instance_id"))
    code = word(told.get(KEY)) or code_in(user_data.decode("utf-8", "replace"))
    return CloudFacts(name="NoCloud", instance=instance, code=code) if instance else None


DIALECTS: Mapping[str, Dialect] = {
    # OpenStack before Amazon: it speaks both.
    one.name: one
    for one in (
        Dialect(name="OpenStack", paths=(_OPENSTACK, _OPENSTACK_USER), read=openstack),
        Dialect(name="Azure", paths=(_AZURE,), read=azure, headers={"Metadata": "true"}),
        Dialect(
            name="Google",
            paths=(_GOOGLE,),
            read=google,
            headers={"Metadata-Flavor": "Google"},
            proof=("metadata-flavor", "Google"),
        ),
        Dialect(
            name="Amazon",
            paths=(_INSTANCE, _LOCAL, _PUBLIC, _TAG, _USER_DATA),
            read=ec2,
            session=("/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}),
            session_header="X-aws-ec2-metadata-token",
        ),
    )
}


def _text(answers: Answers, path: str) -> str:
    return answers.get(path, b"").decode("utf-8", "replace")


def _object(answers: Answers, path: str) -> Mapping[str, Any]:
    try:
        return _map(json.loads(answers.get(path, b"{}")))
    except (ValueError, RecursionError):
        return {}


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _maps(value: object) -> list[Mapping[str, Any]]:
    return [element for element in value if isinstance(element, dict)] if isinstance(value, list) else []


def _decoded(value: object) -> str:
    try:
        return base64.b64decode(value, validate=True).decode("utf-8", "replace") if isinstance(value, str) else ""
    except ValueError:
        return ""
