"""Allocate replicas of experts, place them on nodes, and migrate from one plan to the next.

A `request` becomes a `plan` by one of the `policies`: `allocation` says how many replicas, and `mro` (with `covers`),
`euclid`, `domains`, `balanced`, `eplb`, `expert_parallel` or `baselines` which nodes hold them; `gpus` and `grid` give
them to GPUs and to pipeline stages. `mapping` binds a plan to live nodes, and `migration` moves states there, both by
`pair_sums` of what nodes have and want; `steady` changes a plan by `local_search`, only as far as that pays. `serving`
and `adapters` plan in the place of the balancers of serving stacks, and `plan_files` reads plans back.
"""
