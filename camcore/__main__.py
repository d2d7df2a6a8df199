"""The command line as a module: `python -m camcore`."""

import runpy

if __name__ == "__main__":
    # By its name alone: the kernels import no adapter.
    runpy.run_module("camcore.adapters.cli", run_name="__main__", alter_sys=True)
