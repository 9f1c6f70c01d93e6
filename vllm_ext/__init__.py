"""The adapter that vLLM loads: `plugin.py` registers it, `connector.py` is what vLLM calls."""
