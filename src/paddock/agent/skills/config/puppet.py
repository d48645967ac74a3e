"""How puppet is asked to apply a manifest without a server, and what it counted."""

from collections.abc import Mapping

from paddock.agent.skills.config.tool import Recipe, State, Tool, Verdict, numbers
from paddock.wire.framing import JSON

# --detailed-exitcodes: 0 nothing to do, 2 changed, 4 failed, 6 both; 1 where it did not come to that.
_MEANING = {0: State.UNCHANGED, 2: State.CHANGED}


def _command(recipe: Recipe) -> tuple[str, ...]:
    noop = ("--noop",) if recipe.check else ()
    words = ("apply", "--detailed-exitcodes", "--color=false", f"--lastrunfile={recipe.record}")
    return (*words, *noop, str(recipe.file))


def _env(recipe: Recipe) -> Mapping[str, str]:
    """What is given becomes facts: `$facts['name']`."""
    return {f"FACTER_{name}": _spell(value) for name, value in recipe.variables.items()}


def _spell(value: JSON) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse(variables: Mapping[str, JSON]) -> str:
    """A fact that comes by the environment is one plain value."""
    return next((name for name, value in variables.items() if not isinstance(value, str | int | float)), "")


def _judge(recipe: Recipe, exit: int) -> Verdict:
    resources = _resources(recipe)
    state = _MEANING.get(exit, State.FAILED)
    # A dry run changes nothing, so its code does not tell either: what is out of sync would have changed.
    if state is State.UNCHANGED and recipe.check and resources.get("out_of_sync", 0) != 0:
        state = State.CHANGED
    return Verdict(state=state, counts={"resources": resources})


def _resources(recipe: Recipe) -> dict[str, JSON]:
    import yaml

    try:
        found = yaml.safe_load(recipe.record.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return numbers(found.get("resources")) if isinstance(found, dict) else {}


PUPPET = Tool(
    name="puppet",
    programs=("puppet", "/opt/puppetlabs/bin/puppet"),
    origin="the package puppet-agent (puppet of Debian)",
    file="manifest.pp",
    command=_command,
    files=lambda recipe: {},
    env=_env,
    judge=_judge,
    refuse=_refuse,
)
