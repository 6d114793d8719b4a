"""The commands, each in the module of its name and imported only when it is called."""

import contextlib
import importlib
import os
import re
import sys
from typing import Any

import click

from lazsim import __version__
from lazsim.cli.base.messages import CommandGroup, called_commands, in_a_line, usage_message, with_options
from lazsim.errors import FailedError, LazsimError

GROUPS = {
    "Simulate": {
        "run": "Replay a trace of node events under one or more systems.",
        "advise": "Find the best setting of a job under failures, and say what the advice rests on.",
        "compare": "Hold a log of a run of your own against simulations of the same failures.",
        "sweep": "Run grids of models, systems, traces and seeds, and go on where they were stopped.",
        "sensitivity": "Show what changes when a constant is off by half.",
    },
    "Place experts, lay out a step": {
        "place": "Place experts on nodes by each policy, and say what moves when nodes fail.",
        "recovery": "Say how likely each placement keeps every expert when nodes fail together.",
        "step": "Predict the training step of a layout, part by part, and search for the fastest layout.",
    },
    "Inputs": {
        "trace": "Inspect, convert, generate, fit, fetch and plot traces.",
        "routing": "Inspect, fit and generate expert loads.",
        "model": "Count the parameters of models, and import those of Hugging Face.",
        "list": "List the names that options take, and where to add more.",
    },
    "Measure and check": {
        "profile": "Measure kernels, exchanges and checkpoints on this machine; look at profiles.",
        "live": "Train a small MoE for real while its workers are killed and started.",
        "validate": "Hold the prediction against a real training job under real kills.",
        "verify": "Hold predictions against training runs and kernels that others measured.",
    },
    "Published evaluation": {"experiment": "Make the figures and tables of the published evaluation again."},
}
"""The commands by what a person wants: name -> one line of help; each is in the module of the same name."""

COMMANDS = {name: line for commands in GROUPS.values() for name, line in commands.items()}

MOVED = {"calibrate": "verify --kernels DIR"}
"""Commands of earlier versions, and what to give now."""

NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""A group without a command, which shows its help; since click 8.2."""

COMPLETION = "_LAZSIM_COMPLETE"
"""Variable by which a shell asks for completions."""


class LazyGroup(CommandGroup):
    """A group that imports a command's module only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order in which they are listed."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"lazsim.cli.{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command that arguments call, and say where one has gone."""
        if args[0] in MOVED and not ctx.resilient_parsing:
            ctx.fail(f"{args[0]} is gone; give lazsim {MOVED[args[0]]}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by group, without importing any."""
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), line) for name, line in commands.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, "-V", "--version")
def cli() -> None:
    """Tell what failures cost a Mixture-of-Experts training job, and how to place its experts."""


def run_command(arguments: list[str] | None) -> int:
    """Run the command line and return its exit status.

    Raises
    ------
    KeyboardInterrupt
        When it was interrupted.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        for one in given:
            # Bytes that are no UTF-8 are lone surrogates.
            if re.search("[\ud800-\udfff]", one):
                raise LazsimError(f"{one}: not UTF-8; rename the file")
        if COMPLETION in os.environ:
            cli.main(prog_name="lazsim")
        # Not by `cli.main`, which prints an empty line on an interrupt.
        with contextlib.ExitStack() as held, cli.make_context("lazsim", list(given), obj=held) as context:
            context.meta["lazsim.arguments"] = given
            status = cli.invoke(context)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except LazsimError as error:
        _say(with_options(str(error), called_commands(cli, click.Context(cli), given), given))
        return 1 if isinstance(error, FailedError) else 2
    except NO_ARGUMENTS as error:
        error.show()
        return 2
    except click.ClickException as error:
        _say(usage_message(error))
        return 2
    except OSError as error:
        if error.filename is None:
            _say(str(error))
            return 1
        _say(f"{error.filename}: {error.strerror}; check the path")
        return 2


def _say(error: str) -> None:
    from lazsim.cli.base.results import say

    say(in_a_line(f"lazsim: {error}"))
