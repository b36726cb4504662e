"""The options of the command `pipeline-webserver`. It must never know what they are for."""

import argparse
from collections.abc import Sequence


def parse_arguments(arguments: Sequence[str] | None, settings_help: str) -> argparse.Namespace:
    """`model`, `task` (each None where not given), `host`, `port`, `check`; by default of the process's own arguments.

    `settings_help` is the end of what `--help` prints. Exits the process after `--help`, and where an option is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="pipeline-webserver",
        description="A web server in front of a Hugging Face transformers pipeline.\n"
        "For uvicorn's own options (--workers, --uds, TLS) there is 'uvicorn server:app'.",
        epilog=f"settings, from the environment:\n{settings_help}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", help="instead of PIPELINE_MODEL")
    parser.add_argument("--task", help="instead of PIPELINE_TASK")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", default=8000, type=int, help="port to listen at (default: %(default)s)")
    parser.add_argument(
        "--check",
        action="store_true",
        help="do all of a start but the listening: print what /info would say and exit with 0, or the reason and 1",
    )
    return parser.parse_args(arguments)
