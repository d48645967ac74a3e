"""Holding: what a run leaves that did not go well is kept, where its job wants that.

Effects: idempotent (rows alone, in the transaction that ends the run; the end of its lease carries the wish out)
"""

from dataclasses import replace

from paddock.core import environment as environments
from paddock.core.configuration import Configuration
from paddock.core.environment import Left
from paddock.core.run import Run, Verdict
from paddock.engine.means import need
from paddock.ports import Tables

FAILED = frozenset({Verdict.FAILURE, Verdict.ERROR, Verdict.TIMED_OUT})


def wish(tables: Tables, configuration: Configuration, run: Run) -> None:
    """Before the lease of a run that is done ends: write down that what it had is held, as a person would have.

    A person's own wish goes before it. A job has one at a time, so that one which always fails uses up no pool.
    """
    ttl = run.spec.hold_on_failure
    if ttl is None or run.verdict not in FAILED or run.ending is not None:
        return
    environment = need(tables.environments, run.environment, "environment")
    if environment.hold_ttl is not None or _has_one(tables, run.job):
        return
    pool = configuration.pools.get(environment.pool)
    left = Left(run=run.id, job=run.job)
    wished = replace(
        environment,
        held_by=str(left),
        held_for=left,
        hold_ttl=ttl if pool is None else min(ttl, pool.hold.longest),
        wants_saving=run.spec.hold_disks and environment.spec is not None,
    )
    tables.environments.swap(environment, wished)


def _has_one(tables: Tables, job: str) -> bool:
    kept = tables.environments.where(state=sorted(environments.KEPT))
    return any(one.held_for is not None and one.held_for.job == job for one in kept)
