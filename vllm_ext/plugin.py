"""What vLLM calls in every process: it makes the connector known by its name."""

from __future__ import annotations

CONNECTOR = "RadixKVConnector"
_MODULE = "vllm_ext.connector"


def register() -> None:
    """Entry point of the group `vllm.general_plugins`. vLLM may call it more than once."""
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    try:
        KVConnectorFactory.register_connector(CONNECTOR, _MODULE, CONNECTOR)
    except ValueError:  # it is registered
        known = KVConnectorFactory.get_connector_class_by_name(CONNECTOR)
        if known.__module__ != _MODULE:
            raise
