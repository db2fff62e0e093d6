"""``python -m benchmarks COMMAND …``: a command's module is imported when it runs."""

import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from bottleneck_transformer_flax.errors import BoTNetError, ConfigError

COMMANDS = {
    **dict.fromkeys(
        ("inference", "export", "training", "attention", "attention-training"), "networks"
    ),
    "data": "data",
    "start-up": "start_up",
    "gpu": "gpu",
    "resolution": "resolution",
    "last-stage": "last_stage",
    "torch-resnet": "torch_resnet",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it is done, 1 when the work failed, 2 for bad usage."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] not in COMMANDS:
        print(f"usage: python -m benchmarks {{{','.join(COMMANDS)}}} …", file=sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    module = import_module(f"benchmarks.{COMMANDS[arguments[0]]}")
    try:
        workload = arguments[:1] if COMMANDS[arguments[0]] == "networks" else []
        code: int = module.run(*workload, arguments[1:])
    except ConfigError as error:
        return _fail(str(error), 2)
    except BoTNetError as error:
        return _fail(str(error), 1)
    except MemoryError as error:
        return _fail(f"not enough memory: {error or 'none is left'}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
    return code


def _fail(message: str, code: int) -> int:
    print(f"benchmarks: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    # A shell that starts a command in the background lets it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
