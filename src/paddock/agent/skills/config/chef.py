"""How chef is asked to apply a recipe without a server, and what it counted."""

import json
from collections.abc import Mapping

from paddock.agent.skills.config.tool import Recipe, State, Tool, Verdict, numbers, read_record

_CONFIGURATION = """\
require "json"
require "chef/handler"

class PaddockResults < Chef::Handler
  def report
    counted = { "total" => (run_status.all_resources || []).length,
                "changed" => (run_status.updated_resources || []).length }
    path = ENV.fetch("PADDOCK_RESULTS_FILE")
    File.write(path + ".new", JSON.generate("resources" => counted))
    File.rename(path + ".new", path)
  end
end

here = ENV.fetch("PADDOCK_CHEF_DIRECTORY")
chef_repo_path here
file_cache_path File.join(here, "cache")
file_backup_path File.join(here, "backup")
node_path File.join(here, "nodes")
report_handlers << PaddockResults.new
exception_handlers << PaddockResults.new
"""
# Done, done and a reboot was scheduled, done and a reboot is needed; 1 and all others of its table are failures.
_WELL = (0, 35, 37)


def _command(recipe: Recipe) -> tuple[str, ...]:
    words = ("--local-mode", "--config", "client.rb", "--no-color", "--force-formatter")
    given = ("--json-attributes", "attributes.json") if recipe.variables else ()
    return (*words, *given, *(("--why-run",) if recipe.check else ()), str(recipe.file))


def _files(recipe: Recipe) -> Mapping[str, str]:
    files = {"client.rb": _CONFIGURATION}
    return {**files, "attributes.json": json.dumps(dict(recipe.variables))} if recipe.variables else files


def _env(recipe: Recipe) -> Mapping[str, str]:
    return {"PADDOCK_RESULTS_FILE": str(recipe.record), "PADDOCK_CHEF_DIRECTORY": str(recipe.directory)}


def _judge(recipe: Recipe, exit: int) -> Verdict:
    found = read_record(recipe.record)
    resources = numbers(found.get("resources")) if found is not None else {}
    if exit not in _WELL or found is None:
        return Verdict(state=State.FAILED, counts={"resources": resources})
    state = State.CHANGED if resources.get("changed", 0) != 0 else State.UNCHANGED
    return Verdict(state=state, counts={"resources": resources})


CHEF = Tool(
    name="chef",
    programs=("chef-client", "cinc-client", "/opt/chef/bin/chef-client", "/opt/cinc/bin/cinc-client"),
    origin="Chef Infra Client, or Cinc Client, its free build",
    file="recipe.rb",
    command=_command,
    files=_files,
    env=_env,
    judge=_judge,
)
