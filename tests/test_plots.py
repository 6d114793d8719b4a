"""Figures leave the program that draws them as it was."""

DRAWS = """
import sys
import matplotlib
matplotlib.use("svg")
matplotlib.rcParams["font.size"] = 13
before = dict(matplotlib.rcParams)
import importlib, pkgutil
import lazsim.output.plots as plots
for module in pkgutil.iter_modules(plots.__path__):
    if module.name not in {skipped}:
        importlib.import_module(f"lazsim.output.plots.{{module.name}}")
import lazsim
from lazsim.output.reliability import comparison_files, reliability_files
from lazsim.output.run import run_files
from lazsim.reliability.comparison import compare_plans
from lazsim.reliability.failure_scenarios import build_scenarios
from lazsim.reliability.survival import assess_plans
from lazsim.reliability.task import build_task
task = build_task(4, 2, experts=4)
trace = lazsim.build_trace([lazsim.Event(0, "add", f"n{{i}}") for i in range(4)], duration_s=60)
written = [comparison_files(compare_plans(task)), reliability_files(assess_plans(task, build_scenarios(4)))]
written.append(run_files(lazsim.simulate(trace)))
assert all(content for files in written for content in files.values())
assert dict(matplotlib.rcParams) == before
print(matplotlib.get_backend(), "matplotlib.pyplot" in sys.modules)
"""


def test_drawing_leaves_backend_and_settings_of_the_host_alone(run_script):
    # A picture of live runs needs torch, which a host may lack.
    assert run_script(DRAWS.format(skipped={"live", "profile"})) == "svg False"
