"""The nouns of Paddock: pure values and rules, without I/O, clock, chance or logging.

One word per idea: the same in code, database, API, terminal, pages and documentation. `docs/glossary.md` is this table.

machine: one computer, virtual or physical, that can run an agent
host: a machine that carries other machines
image: a disk to clone: a parent plus build scripts, named by the hash of both; built on each host that needs it
environment: machines and networks lent as one; its configured kind is a pool
pool: a configured kind of environment
lease: the exclusive right to an environment; a run's lives as long as the run, an outside holder's until its ttl
fence: a counter of an environment, raised at every change of owner; whoever shows a lower one is refused
agent: the program on a machine that dials out and carries out commands
skill: a group of methods that an agent offers: `script.*`, `machine.*`, `file.*`
keeper: the small process that holds one task's process tree and outlives the agent
command: an order to an agent with a globally unique id, executed at most once
task: a command that takes time: it has a state, a percentage and an end
alert: what an agent wants a person to know; told again until somebody acknowledged it
ledger: an agent's durable memory of commands, fences and epochs
epoch: a counter of server starts; an agent refuses what an older server says
event: something happened: to a change, to a stream, or by hand
gap: an event that says that a stream was not heard for a while
job: what to run, as configured
run: one attempt of a job
round: all runs that one event started for one change; superseded, cancelled and reported as one
phase: a part of a run: hello, sources, before, main, after, collect
step: one script on some machines at once; the next begins when it has ended on all of them
report: verdict, vote and text that goes back to the forge, once a round
forge: where changes come from and reports go to: a Gerrit, or a recorded stream
verdict: how a run ended: success, failure, error, timed_out, cancelled, superseded, lease_lost
success: every step exited 0, and the test results that the job promises are there and good
failure: the product under test failed
error: we failed: no machine, no network, an interrupted command; it never votes against a change
dirty: lent before and not yet proven clean; everything lent comes back so
quarantined: out of use until a person looks, because cleaning could not be proven
held: kept for a person, as it is, instead of being cleaned
archive: logs, results and artifacts of runs, as plain files
"""
