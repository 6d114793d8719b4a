"""A failure every 40 minutes: throughput and samples trained.

How much does each system train on ten GPUs while a random one fails every 40 minutes, until half are left? All but the
trace and the job's checkpoints is as with a failure every 5 minutes.
"""

from lazsim.study.experiment import load_experiment, overlay

EVERY_5_MIN = load_experiment("failures-5min").script

SETTINGS = overlay(EVERY_5_MIN.SETTINGS, {"traces": {"random": "fail-every-40min"}, "base": {"job": "testbed-a-40min"}})

SMALL = EVERY_5_MIN.SMALL

run, advantages, rows = EVERY_5_MIN.run, EVERY_5_MIN.advantages, EVERY_5_MIN.rows
