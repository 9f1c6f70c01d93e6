"""Says what to do where radixkv's native part is missing.

In a checkout, `python -m` and `python -c` find this folder before what was installed; Python would
then name a circular import, which there is none.
"""

from importlib.util import find_spec
from pathlib import Path

if find_spec("radixkv._native") is None:
    raise ImportError(
        f"radixkv in {Path(__file__).parent} was not built for this interpreter. If that is a "
        "checkout, start Python in another folder, or with -P, and what `pip install .` installed "
        "is found; otherwise install radixkv again"
    )
