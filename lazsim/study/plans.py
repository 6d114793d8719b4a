"""The plan that stands for those of a run: where experts are once loads are known."""

from lazsim.engine.planner import Planner
from lazsim.placement.plan import PlacementPlan
from lazsim.scenario import Scenario


def plan_of(scenario: Scenario) -> PlacementPlan | None:
    """Return the plan on all nodes that a job may use at the first rebalance; None without flexible dispatch."""
    system, costs, trace = scenario.find_system(), scenario.costs(), scenario.load_trace()
    if not system.is_elastic:
        return None
    most_nodes = scenario.spares(trace).most_in_service or trace.most_nodes(scenario.wall_s(trace))
    num_nodes = system.usable_nodes(costs, most_nodes)
    if not num_nodes:
        return None
    per_domain = costs.cluster.nodes_per_domain
    domains = tuple(node // per_domain for node in range(num_nodes)) if system.uses_domains(costs) else None
    planner = Planner(system, costs, scenario.load_routing())
    return planner.plan(num_nodes, costs.job.rebalance_interval_steps, domains)
